"""A port's `Policy` as RBAC filters: denials, then allowances; reports. Deny by default.

Envoy reads "no rules" as "no enforcement": an allowing filter therefore always has `rules`, with an
empty map of policies if nothing is allowed, which refuses every request. Rules become *lists* in
order of their padded names, never a matcher tree (trees miss repeated headers and queries).

The first layer that allows is the allowing filter. What no rule of another layer allows is denied:
so two filters, which are always there, hold any number of layers, and a new one bites at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.core.v3 import extension_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2

from limen.core.envoy import names
from limen.core.envoy.encoded import encode, pack
from limen.core.envoy.expressions import ANY
from limen.core.envoy.principals import (
    always,
    header_matching,
    negated,
    path_matching,
    regex,
    to_principal,
)
from limen.core.envoy.short_way import admitted, skipping
from limen.core.policy.rule import (
    AnyOf,
    Effect,
    Header,
    Layer,
    Policy,
    Rule,
    Sni,
    parts_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

    from limen.core.envoy.encoded import Encoded

AUDIT_PREFIX = "audit_"
"""Of what the reporting filter writes into the request's metadata."""

_ALLOW, _DENY = rbac_pb2.RBAC.ALLOW, rbac_pb2.RBAC.DENY
_ASKING = 900_000
"""First index of the RBAC policies of CUSTOM rules: after the denials, which are named first."""
_REPORTED_FIRST = (Effect.DENY, Effect.CUSTOM, Effect.AUDIT, Effect.ALLOW)


@lru_cache(maxsize=4096)
def permission_resources(policy: Policy, port: int, *, named: bool = True) -> tuple[Encoded, ...]:
    """The filter configurations of a guarded port: denials, allowances, reports. Remembered.

    Not `named`: nobody asks which rule allowed a request, so that it may take the short way.
    """
    audited = audit_rules(policy)
    allowing = allow_filter(policy, port)
    return (
        extension(names.permission_deny(port), deny_filter(policy, port)),
        extension(
            names.permission_allow(port),
            allowing if named else skipping(allowing, admitted(policy)),
        ),
        *([extension(names.audit(port), audit_filter(audited, port))] if audited else ()),
    )


def extension(name: str, message: Message) -> Encoded:
    """A filter's configuration as a resource of its own (ECDS)."""
    return encode(name, extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(message)))


def audit_rules(policy: Policy) -> tuple[Rule, ...]:
    """Rules that report and decide nothing."""
    return tuple(r for layer in policy.layers for r in layer.rules if r.effect is Effect.AUDIT)


@lru_cache(maxsize=4096)
def sees_server_name(policy: Policy) -> bool:
    """Whether a rule looks at the server name that the TLS client asked for."""
    rules = (rule for layer in policy.layers for rule in (*layer.rules, *layer.dry_run))
    return any(isinstance(part, Sni) for rule in rules for part in parts_of(rule.condition))


@lru_cache(maxsize=4096)
def headers_of(policy: Policy) -> tuple[str, ...]:
    """Names of the headers that rules look at, sorted, in lower case."""
    rules = (rule for layer in policy.layers for rule in (*layer.rules, *layer.dry_run))
    parts = (part for rule in rules for part in parts_of(rule.condition))
    return tuple(sorted({part.name.lower() for part in parts if isinstance(part, Header)}))


def deny_filter(policy: Policy, port: int) -> filter_pb2.RBAC:
    """Refuses what any DENY matches, or what a layer does not allow; reports rules on trial.

    Without anything to refuse it has no rules, and is nothing to Envoy.
    What a CUSTOM rule matches passes only if its `ask` filter marked it: then a provider was asked.
    Of the rules on trial that match, one is reported: a DENY if there is one, an ALLOW last.
    """
    rules = [rule for layer in policy.layers for rule in layer.rules]
    refusing = (r for r in rules if r.effect is Effect.DENY)
    trial = [rule for layer in policy.layers for rule in layer.dry_run]
    trial.sort(key=lambda rule: _REPORTED_FIRST.index(rule.effect))
    enforced = _rules(_DENY, refusing, port)
    for index, rule in enumerate(r for r in rules if r.effect is Effect.CUSTOM):
        name = names.policy_id(_ASKING + index, rule.name)
        enforced.policies[name].CopyFrom(_not_asked(rule, port))
    for index, layer in enumerate(_allowing(policy)[1:], 1):
        name = names.nothing_allows(index, layer.kind.value)
        enforced.policies[name].CopyFrom(_nothing_allows(layer, port))
    return filter_pb2.RBAC(
        rules=enforced if enforced.policies else None,
        shadow_rules=_rules(_DENY, trial, port) if trial else None,
    )


def standing_filter() -> filter_pb2.RBAC:
    """Refuses what is refused at every guarded port, whatever documents say."""
    policies = {names.ONE_IDENTITY: _several_identities(), names.ODD_PATH: _odd_paths()}
    return filter_pb2.RBAC(rules=rbac_pb2.RBAC(action=_DENY, policies=policies))


def allow_filter(policy: Policy, port: int) -> filter_pb2.RBAC:
    """Lets pass what the first allowing layer allows, or everything if the mesh says so."""
    layers = _allowing(policy)
    if not layers:
        return _default_filter(allow=policy.default_allow)
    return filter_pb2.RBAC(rules=_rules(_ALLOW, _allows(layers[0]), port))


def audit_filter(rules: Iterable[Rule], port: int) -> filter_pb2.RBAC:
    """Reports the first rule that matches, and enforces nothing."""
    return filter_pb2.RBAC(
        shadow_rules=_rules(_DENY, rules, port), shadow_rules_stat_prefix=AUDIT_PREFIX
    )


def ask_filter(policy: Policy, provider: str, port: int) -> filter_pb2.RBAC:
    """Marks what the CUSTOM rules of `provider` match, and enforces nothing."""
    rules = (rule for layer in policy.layers for rule in layer.rules)
    asking = [r for r in rules if r.effect is Effect.CUSTOM and r.provider == provider]
    return filter_pb2.RBAC(
        shadow_rules=_rules(_DENY, asking, port), shadow_rules_stat_prefix=ask_prefix(provider)
    )


def ask_prefix(provider: str) -> str:
    """Of what the marking filter of `provider` writes into the request's metadata."""
    return f"ask_{provider}_"


def ask_result(provider: str) -> str:
    """Where the marking filter says whether a rule matched."""
    return f"{ask_prefix(provider)}shadow_engine_result"


def ask_marker(provider: str) -> metadata_pb2.MetadataMatcher:
    """The request is marked: `provider` is to be asked."""
    key = ask_result(provider)
    return metadata_pb2.MetadataMatcher(
        filter="envoy.filters.http.rbac",
        path=[metadata_pb2.MetadataMatcher.PathSegment(key=key)],
        value=value_pb2.ValueMatcher(string_match=string_pb2.StringMatcher(exact="denied")),
    )


def _not_asked(rule: Rule, port: int) -> rbac_pb2.Policy:
    marked = rbac_pb2.Principal(metadata=ask_marker(rule.provider))
    both = rbac_pb2.Principal.Set(ids=[to_principal(rule.condition, port), negated(marked)])
    return _policy(rbac_pb2.Principal(and_ids=both))


def _allowing(policy: Policy) -> list[Layer]:
    return [layer for layer in policy.layers if layer.allows]


def _allows(layer: Layer) -> list[Rule]:
    return [rule for rule in layer.rules if rule.effect is Effect.ALLOW]


def _nothing_allows(layer: Layer, port: int) -> rbac_pb2.Policy:
    allowed = AnyOf(tuple(rule.condition for rule in _allows(layer)))
    return _policy(negated(to_principal(allowed, port)))


def _several_identities() -> rbac_pb2.Policy:
    """A certificate with two URI names: which of them is the caller could not be said.

    Read from the header that Envoy itself writes from the verified certificate.
    """
    return _policy(header_matching("x-forwarded-client-cert", regex(f"{ANY};URI={ANY};URI={ANY}")))


def _odd_paths() -> rbac_pb2.Policy:
    """Paths of which normalisation leaves something that servers read each in their own way.

    `/x/..;p/b` is `/b` to servers that cut off parameters first, and is what becomes of
    `/x/%2e%2e;p/b`.
    """
    return _policy(path_matching(regex(rf"{ANY}/\.\.?;{ANY}")))


def _default_filter(*, allow: bool) -> filter_pb2.RBAC:
    policies = {names.policy_id(0, "default-allow"): _policy(always())} if allow else {}
    return filter_pb2.RBAC(rules=rbac_pb2.RBAC(action=_ALLOW, policies=policies))


def _rules(action: rbac_pb2.RBAC.Action, rules: Iterable[Rule], port: int) -> rbac_pb2.RBAC:
    return rbac_pb2.RBAC(
        action=action,
        policies={
            names.policy_id(index, rule.name): _policy(to_principal(rule.condition, port))
            for index, rule in enumerate(rules)
        },
    )


def _policy(*principals: rbac_pb2.Principal) -> rbac_pb2.Policy:
    """Matches if one of `principals` does."""
    return rbac_pb2.Policy(permissions=[rbac_pb2.Permission(any=True)], principals=list(principals))
