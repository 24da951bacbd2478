"""What a refused caller reads: who refused, and how to find out why. Nothing about internals."""

from __future__ import annotations

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

from limen.core.envoy import names
from limen.core.envoy.access_log import (
    GUARDED,
    RBAC,
    expression_filter,
    refused_filter,
    status_filter,
)
from limen.core.envoy.rbac import ask_prefix, ask_result
from limen.core.envoy.wrapped import uint32

_REQUEST_ID = "%REQ(X-REQUEST-ID)%"
_BY_PROVIDER = "response.code_details == 'ext_authz_denied'"
UNVERIFIED = "invalid-token"
"""In place of a rule's name where a token was refused."""
REFUSED_BY_ROUTE = 599
"""Status of a refusing route before it is mapped to 403."""


def header_of_reply(name: str, value: str) -> base_pb2.HeaderValueOption:
    """A header of a response, in place of any other of that name."""
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value),
        append_action="OVERWRITE_IF_EXISTS_OR_ADD",
    )


_REQUEST_ID_HEADER = header_of_reply("x-request-id", _REQUEST_ID)


def inbound_denial(
    callee: str, *, tokens: bool, rule_header: str = "", providers: tuple[str, ...] = ()
) -> hcm_pb2.LocalReplyConfig:
    """403 of a guarded port, naming callee and caller; 401 where it verifies tokens.

    With `rule_header` every refusal names in it what refused: a 403 of policies as Envoy's details
    do, `rbac_access_denied_matched_policy[RULE]` (what the log calls the deciding rule is not yet
    known when a refusal is written), a provider's likewise with the rule because of which it was
    asked, a 401 `invalid-token`. What a provider answers stays. `providers` in the order of asking.
    """
    caller = "%DOWNSTREAM_PEER_URI_SAN%"
    text = (
        f"{callee} refuses {caller}. Why: limen explain --from {caller} --to {callee}\n"
        f"Request ID: {_REQUEST_ID}\n"
    )
    return _replies(callee if tokens else "", text, rule_header, providers)


def edge_refusals(
    *, tokens: bool, rule_header: str = "", providers: tuple[str, ...] = ()
) -> hcm_pb2.LocalReplyConfig:
    """403 and 401 of a gateway: clients outside learn nothing but the request's ID.

    What a provider answers stays: it may be the way to a login page.
    """
    text = f"Refused. The operator finds out why by the request ID {_REQUEST_ID}.\n"
    return _replies("This host" if tokens else "", text, rule_header, providers)


def _replies(
    verifier: str, text: str, rule_header: str, providers: tuple[str, ...]
) -> hcm_pb2.LocalReplyConfig:
    """The first mapper that fits is used. `verifier`: who says that a token is missing."""
    refused = hcm_pb2.ResponseMapper(
        filter=status_filter(403),
        headers_to_add=_naming(rule_header, "%RESPONSE_CODE_DETAILS%"),
        body_format_override=plain_text(text),
    )
    return hcm_pb2.LocalReplyConfig(
        mappers=[
            *_providers_refusals(rule_header, providers),
            *(_token_refusals(verifier, rule_header) if verifier else ()),
            refused,
        ]
    )


def _providers_refusals(
    rule_header: str, providers: tuple[str, ...]
) -> list[hcm_pb2.ResponseMapper]:
    """A refusal ends the asking: it is of the last provider that was asked."""
    if not providers:
        return []
    if not rule_header:
        by_one = expression_filter(_BY_PROVIDER)
        return [hcm_pb2.ResponseMapper(filter=by_one, headers_to_add=[_REQUEST_ID_HEADER])]
    found = []
    for name in reversed(providers):
        rule = f"%DYNAMIC_METADATA({RBAC}:{ask_prefix(name)}shadow_effective_policy_id)%"
        both = accesslog_pb2.AndFilter(
            filters=[expression_filter(_BY_PROVIDER), refused_filter(ask_result(name))]
        )
        found.append(
            hcm_pb2.ResponseMapper(
                filter=accesslog_pb2.AccessLogFilter(and_filter=both),
                headers_to_add=_naming(rule_header, f"ext_authz_denied[{rule}]"),
            )
        )
    return found


def _naming(rule_header: str, value: str) -> list[base_pb2.HeaderValueOption]:
    """What every refusal says in its headers: its id, and what refused if that is wanted."""
    named = [header_of_reply(rule_header, value)] if rule_header else []
    return [_REQUEST_ID_HEADER, *named]


def _token_refusals(callee: str, rule_header: str) -> list[hcm_pb2.ResponseMapper]:
    """401 (RFC 6750, section 3.1), and why only in the log of the callee's proxy.

    RBAC says 403, and so does `jwt_authn` of another audience. Which filter refused stands nowhere
    but in the details of the response when this is asked.
    """
    text = f"{callee} needs a valid token in this request.\nRequest ID: {_REQUEST_ID}.\n"
    body = plain_text(text)
    details = f"rbac_access_denied_matched_policy[{names.BAD_JWT}]"
    by_tokens = (
        "response.code == 403 && (response.code_details.startsWith('jwt_authn_access_denied') "
        f"|| response.code_details == '{details}')"
    )
    challenge = header_of_reply("www-authenticate", 'Bearer error="invalid_token"')
    named = _naming(rule_header, UNVERIFIED)
    forbidden = hcm_pb2.ResponseMapper(
        filter=expression_filter(by_tokens),
        status_code=uint32(401),
        headers_to_add=[challenge, *named],
        body_format_override=body,
    )
    unauthenticated = hcm_pb2.ResponseMapper(
        filter=status_filter(401), headers_to_add=named, body_format_override=body
    )
    return [forbidden, unauthenticated]


def outbound_refusals(*, guarded: bool) -> hcm_pb2.LocalReplyConfig:
    """Answers of a way out: 407 by its guard (RFC 9110, 15.5.8), 403 by its routes.

    The guard's filter says 401; nothing else here says so by itself. The routes say
    `REFUSED_BY_ROUTE`, a status that no application has.
    """
    text = (
        "This way out belongs to one workload. Use the HTTP_PROXY that `limen run` gave the "
        "program.\n"
    )
    challenge = header_of_reply("proxy-authenticate", 'Basic realm="limen"')
    by_guard = hcm_pb2.ResponseMapper(
        filter=status_filter(401),
        status_code=uint32(GUARDED),
        headers_to_add=[challenge],
        body_format_override=plain_text(text),
    )
    by_route = hcm_pb2.ResponseMapper(
        filter=status_filter(REFUSED_BY_ROUTE), status_code=uint32(403)
    )
    return hcm_pb2.LocalReplyConfig(mappers=[by_guard, by_route] if guarded else [by_route])


def plain_text(text: str) -> substitution_format_string_pb2.SubstitutionFormatString:
    """A body as plain text; command operators in it are filled in by Envoy."""
    return substitution_format_string_pb2.SubstitutionFormatString(
        text_format_source=base_pb2.DataSource(inline_string=text),
        content_type="text/plain; charset=utf-8",
    )
