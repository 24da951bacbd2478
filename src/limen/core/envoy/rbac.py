"""A port's `Policy` as two RBAC filters: denials, then allowances. Deny by default.

Envoy reads "no rules" as "no enforcement": an allowing filter therefore always has `rules`, with an
empty map of policies if nothing is allowed, which refuses every request. Rules become *lists* in
order of their padded names, never a matcher tree (trees miss repeated headers and queries).

A whole condition is one principal: permissions cannot name identities, principals can name
everything. The port is known here, so it is decided here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, assert_never

from envoy.config.core.v3 import extension_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2
from envoy.extensions.rbac.principals.mtls_authenticated.v3 import mtls_authenticated_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2
from envoy.type.matcher.v3 import path_pb2, regex_pb2, string_pb2

from limen.core.envoy import names
from limen.core.envoy.encoded import encode, pack
from limen.core.envoy.strings import is_any_text, to_string_matchers
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Claim,
    Condition,
    DestinationIp,
    Effect,
    HasToken,
    Header,
    Host,
    Method,
    Not,
    Path,
    PathTemplate,
    Policy,
    Port,
    Principal,
    PrincipalNamespace,
    RemoteIp,
    RequestPrincipal,
    Rule,
    Sni,
    SourceIp,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.message import Message

    from limen.core.envoy.encoded import Encoded

_ALLOW, _DENY = rbac_pb2.RBAC.ALLOW, rbac_pb2.RBAC.DENY
_SPIFFE = "spiffe://"


@lru_cache(maxsize=4096)
def permission_resources(policy: Policy, port: int) -> tuple[Encoded, Encoded]:
    """The two filter configurations of a guarded port: denials, allowances. Remembered."""
    return (
        extension(names.permission_deny(port), deny_filter(policy, port)),
        extension(names.permission_allow(port), allow_filter(policy, port)),
    )


def extension(name: str, message: Message) -> Encoded:
    """A filter's configuration as a resource of its own (ECDS)."""
    return encode(name, extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(message)))


def deny_filter(policy: Policy, port: int) -> filter_pb2.RBAC:
    """Refuses what any DENY matches; reports what a DENY on trial would."""
    rules = [rule for layer in policy.layers for rule in layer.rules]
    trial = [rule for layer in policy.layers for rule in layer.dry_run]
    shadow = [rule for rule in trial if rule.effect is Effect.DENY]
    enforced = _rules(_DENY, (r for r in rules if r.effect is Effect.DENY), port)
    enforced.policies[names.ONE_IDENTITY].CopyFrom(_several_identities())
    return filter_pb2.RBAC(
        rules=enforced,
        shadow_rules=_rules(_DENY, shadow, port) if shadow else None,
    )


def allow_filter(policy: Policy, port: int) -> filter_pb2.RBAC:
    """Lets pass what every allowing layer allows, or everything if the mesh says so."""
    layers = [
        tuple(rule for rule in layer.rules if rule.effect is Effect.ALLOW)
        for layer in policy.layers
        if layer.allows
    ]
    if not layers:
        return _default_filter(allow=policy.default_allow)
    first, *others = layers
    needed = tuple(AnyOf(tuple(rule.condition for rule in layer)) for layer in others)
    rules = [Rule(r.effect, AllOf((r.condition, *needed)), r.name, r.ref) for r in first]
    return filter_pb2.RBAC(rules=_rules(_ALLOW, rules if needed else first, port))


def _several_identities() -> rbac_pb2.Policy:
    """A certificate with two URI names: which of them is the caller could not be said.

    Read from the header that Envoy itself writes from the verified certificate.
    """
    header = route_components_pb2.HeaderMatcher(
        name="x-forwarded-client-cert",
        string_match=string_pb2.StringMatcher(
            safe_regex=regex_pb2.RegexMatcher(regex=r"\C*;URI=\C*;URI=\C*")
        ),
    )
    return rbac_pb2.Policy(
        permissions=[rbac_pb2.Permission(any=True)],
        principals=[rbac_pb2.Principal(header=header)],
    )


def _default_filter(*, allow: bool) -> filter_pb2.RBAC:
    everyone = rbac_pb2.Policy(
        permissions=[rbac_pb2.Permission(any=True)], principals=[rbac_pb2.Principal(any=True)]
    )
    policies = {names.policy_id(0, "default-allow"): everyone} if allow else {}
    return filter_pb2.RBAC(rules=rbac_pb2.RBAC(action=_ALLOW, policies=policies))


def _rules(action: rbac_pb2.RBAC.Action, rules: Iterable[Rule], port: int) -> rbac_pb2.RBAC:
    return rbac_pb2.RBAC(
        action=action,
        policies={
            names.policy_id(index, rule.name): rbac_pb2.Policy(
                permissions=[rbac_pb2.Permission(any=True)],
                principals=[to_principal(rule.condition, port)],
            )
            for index, rule in enumerate(rules)
        },
    )


def to_principal(condition: Condition, port: int) -> rbac_pb2.Principal:  # noqa: PLR0911 - one branch per condition, total by design
    """`condition` at guarded port `port`. Total; agrees with `decide()`."""
    match condition:
        case Always():
            return _always()
        case Authenticated():
            return _identity(string_pb2.StringMatcher(prefix=_SPIFFE))
        case Principal(match):
            return _to_identity(match)
        case Method(match):
            return _to_header(":method", match)
        case Path(match):
            return _to_path(match)
        case Header(name, match):
            return _to_header(name, match)
        case Port(wanted):
            return _always() if wanted == port else _never()
        case AllOf(parts):
            return _all([to_principal(part, port) for part in parts])
        case AnyOf(parts):
            return _any([to_principal(part, port) for part in parts])
        case Not(part):
            return rbac_pb2.Principal(not_id=to_principal(part, port))
        case (
            PrincipalNamespace() | PathTemplate() | Host() | Sni()
            | HasToken() | RequestPrincipal() | Claim()
            | SourceIp() | RemoteIp() | DestinationIp()
        ):  # fmt: skip
            raise NotImplementedError(type(condition).__name__)
    assert_never(condition)


def _always() -> rbac_pb2.Principal:
    return rbac_pb2.Principal(any=True)


def _never() -> rbac_pb2.Principal:
    return rbac_pb2.Principal(not_id=_always())


def _all(parts: Sequence[rbac_pb2.Principal]) -> rbac_pb2.Principal:
    if len(parts) < 2:
        return parts[0] if parts else _always()
    return rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=parts))


def _any(parts: Sequence[rbac_pb2.Principal]) -> rbac_pb2.Principal:
    if len(parts) < 2:
        return parts[0] if parts else _never()
    return rbac_pb2.Principal(or_ids=rbac_pb2.Principal.Set(ids=parts))


def _to_identity(match: StringMatch) -> rbac_pb2.Principal:
    if match.how is How.PRESENT or is_any_text(match):
        return _identity(string_pb2.StringMatcher(prefix=_SPIFFE))
    if match.how in (How.EXACT, How.PREFIX) and match.value.startswith(_SPIFFE):
        return _any([_identity(m) for m in to_string_matchers(match)])
    return _any([_uri_identity(m) for m in to_string_matchers(match)])


def _identity(matcher: string_pb2.StringMatcher) -> rbac_pb2.Principal:
    """A name in the caller's certificate.

    Envoy looks at DNS names and subject after the URIs: sound only for texts that start with
    `spiffe://`, which neither of those does.
    """
    return rbac_pb2.Principal(
        authenticated=rbac_pb2.Principal.Authenticated(principal_name=matcher)
    )


def _uri_identity(matcher: string_pb2.StringMatcher) -> rbac_pb2.Principal:
    """A URI name in the caller's certificate, for texts that a DNS name could match too."""
    config = mtls_authenticated_pb2.Config(
        san_matcher=common_pb2.SubjectAltNameMatcher(san_type="URI", matcher=matcher)
    )
    return rbac_pb2.Principal(
        custom=extension_pb2.TypedExtensionConfig(
            name="envoy.rbac.principals.mtls_authenticated", typed_config=pack(config)
        )
    )


def _to_path(match: StringMatch) -> rbac_pb2.Principal:
    if match.how is How.PRESENT or is_any_text(match):
        return _present(":path")
    return _any([_path(matcher) for matcher in to_string_matchers(match)])


def _path(matcher: string_pb2.StringMatcher) -> rbac_pb2.Principal:
    return rbac_pb2.Principal(url_path=path_pb2.PathMatcher(path=matcher))


def _to_header(name: str, match: StringMatch) -> rbac_pb2.Principal:
    if is_any_text(match):
        return _present(name)
    if match.how is How.PRESENT:
        # `.` would not match a value that is no UTF-8, and a denial would miss it (2026-73552).
        some_byte = regex_pb2.RegexMatcher(regex=r"\C+")
        return _header(name, string_pb2.StringMatcher(safe_regex=some_byte))
    return _any([_header(name, matcher) for matcher in to_string_matchers(match)])


def _present(name: str) -> rbac_pb2.Principal:
    return rbac_pb2.Principal(
        header=route_components_pb2.HeaderMatcher(name=name, present_match=True)
    )


def _header(name: str, matcher: string_pb2.StringMatcher) -> rbac_pb2.Principal:
    return rbac_pb2.Principal(
        header=route_components_pb2.HeaderMatcher(name=name, string_match=matcher)
    )
