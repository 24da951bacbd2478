"""A `Condition` as one RBAC principal. Total; agrees with `decide()`.

A whole condition is one principal, because permissions cannot name identities. What Envoy shows to
permissions only (the address that was reached, the server name that was asked for) is put into the
connection's filter state (`connection_facts`), which principals see. The port is known here, so it
is decided here. No condition is an expression that could fail: all are lists of matchers, of which
a missing value satisfies none.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, assert_never

from envoy.config.core.v3 import address_pb2, extension_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.rbac.principals.mtls_authenticated.v3 import mtls_authenticated_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2
from envoy.type.matcher.v3 import (
    address_pb2 as address_matcher_pb2,
)
from envoy.type.matcher.v3 import (
    filter_state_pb2,
    metadata_pb2,
    path_pb2,
    regex_pb2,
    string_pb2,
    value_pb2,
)
from xds.core.v3 import cidr_pb2

from limen.core.envoy import expressions, names
from limen.core.envoy.encoded import pack
from limen.core.envoy.strings import is_any_text, to_string_matchers
from limen.core.envoy.wrapped import uint32
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Claim,
    Condition,
    DestinationIp,
    HasToken,
    Header,
    Host,
    Method,
    Not,
    Path,
    PathTemplate,
    Port,
    Principal,
    PrincipalNamespace,
    RemoteIp,
    RequestPrincipal,
    Sni,
    SourceIp,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SPIFFE = "spiffe://"
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def to_principal(condition: Condition, port: int) -> rbac_pb2.Principal:  # noqa: C901, PLR0911, PLR0912 - one branch per condition, total by design
    """`condition` at guarded port `port`."""
    match condition:
        case Always():
            return always()
        case Authenticated():
            return _identity(string_pb2.StringMatcher(prefix=_SPIFFE))
        case Principal(match):
            return _to_identity(match)
        case PrincipalNamespace(match):
            return _matching(expressions.identity_in_namespace(match), _identity)
        case HasToken():
            return has_token()
        case RequestPrincipal(issuer, subject):
            return _all([_to_words("iss", issuer), _to_words("sub", subject)])
        case Claim(path, match):
            return _to_claim(path, match)
        case Method(match):
            return _to_header(":method", match)
        case Path(match):
            return _to_path(match)
        case PathTemplate(template):
            return path_matching(regex(expressions.path_of_template(template)))
        case Host(match, any_port):
            return _to_host(match, None if any_port else port)
        case Header(name, match):
            return _to_header(name, match)
        case Port(wanted):
            return always() if wanted == port else never()
        case SourceIp(cidrs):
            return _any([rbac_pb2.Principal(direct_remote_ip=r) for r in _ranges(cidrs)])
        case RemoteIp(cidrs):
            return _any([rbac_pb2.Principal(remote_ip=r) for r in _ranges(cidrs)])
        case DestinationIp(cidrs):
            return _to_destination(cidrs)
        case Sni(match):
            return _any([_server_name(m) for m in _texts(match, some=True)])
        case AllOf(parts):
            return _all([to_principal(part, port) for part in parts])
        case AnyOf(parts):
            return _any([to_principal(part, port) for part in parts])
        case Not(part):
            return negated(to_principal(part, port))
    assert_never(condition)


def always() -> rbac_pb2.Principal:
    """Everybody."""
    return rbac_pb2.Principal(any=True)


def never() -> rbac_pb2.Principal:
    """Nobody."""
    return negated(always())


def negated(principal: rbac_pb2.Principal) -> rbac_pb2.Principal:
    """Everybody else."""
    return rbac_pb2.Principal(not_id=principal)


def has_token() -> rbac_pb2.Principal:
    """A verified token: each has an `iss`, because each provider wants its own."""
    return _claim(("iss",), value_pb2.ValueMatcher(present_match=True))


def regex(expression: str) -> string_pb2.StringMatcher:
    """Texts that `expression` matches as a whole."""
    return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=expression))


def path_matching(matcher: string_pb2.StringMatcher) -> rbac_pb2.Principal:
    """The path without its query."""
    return rbac_pb2.Principal(url_path=path_pb2.PathMatcher(path=matcher))


def header_matching(name: str, matcher: string_pb2.StringMatcher) -> rbac_pb2.Principal:
    """At least one value of the header."""
    return rbac_pb2.Principal(
        header=route_components_pb2.HeaderMatcher(name=name, string_match=matcher)
    )


def _all(parts: Sequence[rbac_pb2.Principal]) -> rbac_pb2.Principal:
    if len(parts) < 2:
        return parts[0] if parts else always()
    return rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=parts))


def _any(parts: Sequence[rbac_pb2.Principal]) -> rbac_pb2.Principal:
    if len(parts) < 2:
        return parts[0] if parts else never()
    return rbac_pb2.Principal(or_ids=rbac_pb2.Principal.Set(ids=parts))


def _texts(match: StringMatch, *, some: bool = False) -> tuple[string_pb2.StringMatcher, ...]:
    """Matchers of which one must match; `some`: the text is known not to be empty."""
    if is_any_text(match):
        return (regex(expressions.SOME if some else expressions.ANY),)
    if match.how is How.PRESENT:
        return (regex(expressions.SOME),)
    return to_string_matchers(match)


def _matching(
    expression: str | None,
    make: Callable[[string_pb2.StringMatcher], rbac_pb2.Principal],
) -> rbac_pb2.Principal:
    return never() if expression is None else make(regex(expression))


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


def _to_claim(names_: tuple[str, ...], match: StringMatch) -> rbac_pb2.Principal:
    """A text, or a list with a text. Numbers, objects and lists in lists match nothing."""
    texts = [value_pb2.ValueMatcher(string_match=m) for m in _texts(match)]
    lists = [
        value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=text)) for text in texts
    ]
    either = value_pb2.OrMatcher(value_matchers=[*texts, *lists])
    return _claim(names_, value_pb2.ValueMatcher(or_match=either))


def _to_words(name: str, match: StringMatch) -> rbac_pb2.Principal:
    """A claim that is one text and not empty."""
    found = [
        _claim((name,), value_pb2.ValueMatcher(string_match=m)) for m in _texts(match, some=True)
    ]
    if match.how is How.EXACT and not match.value:
        return never()
    if match.how is How.PATH_PREFIX and not match.value:
        return found[1]
    return _any(found)


def _claim(names_: Iterable[str], value: value_pb2.ValueMatcher) -> rbac_pb2.Principal:
    path_ = (names.JWT_PAYLOAD, *names_)
    return rbac_pb2.Principal(
        metadata=metadata_pb2.MetadataMatcher(
            filter=names.JWT_METADATA,
            path=[metadata_pb2.MetadataMatcher.PathSegment(key=key) for key in path_],
            value=value,
        )
    )


def _to_path(match: StringMatch) -> rbac_pb2.Principal:
    if match.how is How.PRESENT or is_any_text(match):
        return _present(":path")
    return _any([path_matching(matcher) for matcher in to_string_matchers(match)])


def _to_host(match: StringMatch, port: int | None) -> rbac_pb2.Principal:
    expression = expressions.authority(match, port)
    return _matching(expression, lambda matcher: header_matching(":authority", matcher))


def _to_header(name: str, match: StringMatch) -> rbac_pb2.Principal:
    if is_any_text(match):
        return _present(name)
    return _any([header_matching(name, matcher) for matcher in _texts(match)])


def _present(name: str) -> rbac_pb2.Principal:
    return rbac_pb2.Principal(
        header=route_components_pb2.HeaderMatcher(name=name, present_match=True)
    )


def _networks(cidrs: Iterable[str]) -> list[_Network]:
    return [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]


def _ranges(cidrs: Iterable[str]) -> list[address_pb2.CidrRange]:
    return [
        address_pb2.CidrRange(address_prefix=str(n.network_address), prefix_len=uint32(n.prefixlen))
        for n in _networks(cidrs)
    ]


def _to_destination(cidrs: tuple[str, ...]) -> rbac_pb2.Principal:
    ranges = [
        cidr_pb2.CidrRange(address_prefix=str(n.network_address), prefix_len=uint32(n.prefixlen))
        for n in _networks(cidrs)
    ]
    if not ranges:
        return never()
    return rbac_pb2.Principal(
        filter_state=filter_state_pb2.FilterStateMatcher(
            key=names.REACHED_ADDRESS,
            address_match=address_matcher_pb2.AddressMatcher(ranges=ranges),
        )
    )


def _server_name(matcher: string_pb2.StringMatcher) -> rbac_pb2.Principal:
    return rbac_pb2.Principal(
        filter_state=filter_state_pb2.FilterStateMatcher(
            key=names.SERVER_NAME, string_match=matcher
        )
    )
