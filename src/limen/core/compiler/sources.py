"""Who calls, in Istio's words, as conditions: principals, namespaces, accounts, tokens, addresses.

An identity field that is negated needs an identity in an ALLOW ("a caller without identity
satisfies no identity field of an ALLOW, negated ones included") and none in DENY, AUDIT and CUSTOM,
so that Istio's `notPrincipals: ["*"]` demands mTLS and `notRequestPrincipals: ["*"]` a token.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from limen.core.compiler.rules import all_of, any_of
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Authenticated,
    Condition,
    HasToken,
    Not,
    Principal,
    PrincipalNamespace,
    RemoteIp,
    RequestPrincipal,
    SourceIp,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from limen.core.compiler.environment import Environment
    from limen.core.model.authorization import AuthorizationSource

_SCHEME = "spiffe://"


def pattern(text: str, *, ignore_case: bool = False) -> StringMatch:
    """`*` (present, not empty), `*suffix`, `prefix*` or exact."""
    if text == "*":
        return StringMatch(How.PRESENT)
    if text.startswith("*"):
        return StringMatch(How.SUFFIX, text[1:], ignore_case)
    if text.endswith("*"):
        return StringMatch(How.PREFIX, text[:-1], ignore_case)
    return StringMatch(How.EXACT, text, ignore_case)


def principal(env: Environment, text: str) -> Condition:
    """A peer's identity. `cluster.local` and aliases mean the mesh's own trust domain."""
    if text == "*":
        return Authenticated()
    if text.startswith("*"):
        return Principal(StringMatch(How.SUFFIX, text[1:]))
    return Principal(pattern(env.canonical(_SCHEME + text)))


def service_account(env: Environment, text: str) -> Condition:
    """`NAMESPACE/NAME`."""
    namespace, _, name = text.partition("/")
    identity = f"{_SCHEME}{env.trust_domain}/ns/{namespace}/sa/{name}"
    return Principal(StringMatch(How.EXACT, identity))


def namespace(text: str) -> Condition:
    """The namespace of a peer's identity."""
    return PrincipalNamespace(pattern(text))


def request_principal(text: str) -> Condition:
    """`ISSUER/SUBJECT` of a token, taken apart at the last `/` and compared on its own claims."""
    present = StringMatch(How.PRESENT)
    issuer, slash, subject = text.rpartition("/")
    if slash:
        return RequestPrincipal(pattern(issuer), pattern(subject))
    if text.endswith("*") and text != "*":
        return RequestPrincipal(pattern(text), present)
    return RequestPrincipal(present, pattern(text))


def cidrs(texts: Iterable[str]) -> tuple[str, ...]:
    """Addresses and CIDRs in one spelling, sorted."""
    networks = {ipaddress.ip_network(text, strict=False) for text in texts}
    return tuple(sorted(str(network) for network in networks))


def none_of(parts: Sequence[Condition], guard: Condition | None) -> Condition:
    """None of them; with `guard`, and that too."""
    negated = Not(any_of(parts))
    return negated if guard is None else AllOf((guard, negated))


def pair(
    make: Callable[[str], Condition],
    values: Sequence[str],
    not_values: Sequence[str],
    guard: Condition | None = None,
) -> list[Condition]:
    """A field and its negation: none, one or two conditions."""
    found: list[Condition] = []
    if values:
        found.append(any_of([make(value) for value in values]))
    if not_values:
        found.append(none_of([make(value) for value in not_values], guard))
    return found


def source_condition(env: Environment, source: AuthorizationSource, *, allow: bool) -> Condition:
    """One `from` entry: all of its fields. `allow`: in a rule that allows."""
    peer = Authenticated() if allow else None
    token = HasToken() if allow else None

    def of_peer(text: str) -> Condition:
        return principal(env, text)

    def account(text: str) -> Condition:
        return service_account(env, text)

    parts = [
        *pair(of_peer, source.principals, source.not_principals, peer),
        *pair(account, source.service_accounts, source.not_service_accounts, peer),
        *pair(namespace, source.namespaces, source.not_namespaces, peer),
        *pair(request_principal, source.request_principals, source.not_request_principals, token),
    ]
    if source.ip_blocks:
        parts.append(SourceIp(cidrs(source.ip_blocks)))
    if source.not_ip_blocks:
        parts.append(Not(SourceIp(cidrs(source.not_ip_blocks))))
    if source.remote_ip_blocks:
        parts.append(RemoteIp(cidrs(source.remote_ip_blocks)))
    if source.not_remote_ip_blocks:
        parts.append(Not(RemoteIp(cidrs(source.not_remote_ip_blocks))))
    return all_of(parts)
