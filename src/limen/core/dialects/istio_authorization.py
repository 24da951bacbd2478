"""Istio's AuthorizationPolicy: schema and conversion.

Source: istio/api `security/v1/authorization_policy.proto`, istio/istio `pkg/config/validation`
ValidateAuthorizationPolicy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.dialects import istio_patterns as patterns
from limen.core.dialects.document import Findings, JsonObject, child
from limen.core.dialects.fields import obj, objects, text, texts
from limen.core.dialects.istio import DRY_RUN, SCOPE, annotations_rule, check_scope, is_on, to_scope
from limen.core.dialects.istio_conditions import WHEN
from limen.core.dialects.istio_overlap import warn_about_rule
from limen.core.dialects.metadata import NAME
from limen.core.dialects.schema import Choice, Field, ListOf, Struct
from limen.core.model.authorization import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    AuthorizationSource,
    ConditionKind,
    Operation,
    When,
)

if TYPE_CHECKING:
    from limen.core.dialects.schema import Text

ANNOTATIONS = {DRY_RUN: '"true": verdicts are reported and nothing is enforced'}
RULES = (annotations_rule(frozenset(ANNOTATIONS)),)
_MATCHED = "exact, `prefix*`, `*suffix` or `*`"


def _pair(name: str, item: Text, note: str, maximum: int = 10_000) -> dict[str, Field]:
    """The fields `name` and `notName`."""
    negated = f"not{name[0].upper()}{name[1:]}"
    values = ListOf(item, maximum)
    return {name: Field(values, note=note), negated: Field(values, note="none of them")}


def _check_source(source: JsonObject, path: str, out: Findings) -> None:
    _not_empty(source, path, out)
    accounts = [n for n in ("serviceAccounts", "notServiceAccounts") if n in source]
    others = ("principals", "notPrincipals", "namespaces", "notNamespaces")
    other = next((name for name in others if name in source), None)
    if accounts and other is not None:
        out.error(
            "conflicting-fields",
            f"{accounts[0]} and {other} cannot be used together",
            child(path, accounts[0]),
            "write NAMESPACE/NAME, or principals only",
        )


def _not_empty(value: JsonObject, path: str, out: Findings) -> None:
    if not value:
        out.error(
            "empty-value",
            "it is empty, which could mean all or none",
            path,
            "write a field, or leave the whole list out to mean all",
        )


_SOURCE = Struct(
    {
        **_pair(
            "principals",
            patterns.PRINCIPAL,
            f"`TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`: {_MATCHED}; "
            "`cluster.local` is the mesh's trust domain",
        ),
        **_pair(
            "requestPrincipals",
            patterns.REQUEST_PRINCIPAL,
            f"`ISSUER/SUBJECT` of a verified token: {_MATCHED}",
        ),
        **_pair("namespaces", patterns.NAMESPACE, f"of the caller: {_MATCHED}"),
        **_pair(
            "serviceAccounts",
            patterns.SERVICE_ACCOUNT,
            "`NAME` of the policy's namespace, or `NAMESPACE/NAME`; not beside principals or "
            "namespaces",
            maximum=16,
        ),
        **_pair("ipBlocks", patterns.ADDRESS, "the connection's other end: addresses or CIDRs"),
        **_pair("remoteIpBlocks", patterns.ADDRESS, "the client's address behind trusted proxies"),
    },
    (_check_source,),
)
_OPERATION = Struct(
    {
        **_pair("hosts", patterns.HOST, f"case does not matter: {_MATCHED}"),
        **_pair("ports", patterns.PORT, "the workload's own port, in quotes"),
        **_pair("methods", patterns.METHOD, f"upper case: {_MATCHED}; POST for gRPC"),
        **_pair(
            "paths",
            patterns.PATH,
            f"without the query: {_MATCHED}; `{{*}}` is one part, `{{**}}` any number of parts",
        ),
    },
    (_not_empty,),
)
_RULE = Struct(
    {
        "from": Field(
            ListOf(Struct({"source": Field(_SOURCE, required=True)}), maximum=512),
            note="any of them; everybody if absent",
        ),
        "to": Field(
            ListOf(Struct({"operation": Field(_OPERATION, required=True)}), maximum=512),
            note="any of them; everything if absent",
        ),
        "when": Field(ListOf(WHEN, maximum=512), note="all of them"),
    }
)


def _check_spec(spec: JsonObject, path: str, out: Findings) -> None:
    check_scope(spec, path, out)
    action = Action(text(spec, "action", Action.ALLOW.value))
    _check_provider(spec, action, path, out)
    if "rules" not in spec and action in (Action.DENY, Action.CUSTOM):
        out.error(
            "missing-field",
            f"{action.value} without rules does nothing",
            path,
            "write rules; a rule {} matches every request",
        )
    elif "rules" not in spec and action is Action.AUDIT:
        out.warn("no-effect", "AUDIT without rules reports nothing", path, "write rules")
    for index, rule in enumerate(objects(spec, "rules")):
        warn_about_rule(action, rule, child(child(path, "rules"), index), out)


def _check_provider(spec: JsonObject, action: Action, path: str, out: Findings) -> None:
    if action is Action.CUSTOM and "provider" not in spec:
        message = "CUSTOM needs the provider that decides"
        out.error("missing-field", message, path, "write provider: {name: NAME}")
    if action is not Action.CUSTOM and "provider" in spec:
        out.error(
            "conflicting-fields",
            f"provider cannot be used with {action.value}",
            child(path, "provider"),
            "write action: CUSTOM, or remove it",
        )


SPEC = Struct(
    {
        **SCOPE,
        "action": Field(Choice(tuple(a.value for a in Action)), note="ALLOW if absent"),
        "provider": Field(
            Struct({"name": Field(NAME, required=True)}), note="of CUSTOM, and only there"
        ),
        "rules": Field(
            ListOf(_RULE, maximum=512),
            note="any of them; `{}` matches everything; if absent an ALLOW allows nothing",
        ),
    },
    (_check_spec,),
)


def to_authorization_policy(
    namespace: str, metadata: JsonObject, spec: JsonObject
) -> AuthorizationPolicy:
    """A checked document of `namespace`."""
    return AuthorizationPolicy(
        scope=to_scope(namespace, spec),
        action=Action(text(spec, "action", Action.ALLOW.value)),
        rules=tuple(_to_rule(namespace, rule) for rule in objects(spec, "rules")),
        provider=text(obj(spec, "provider"), "name"),
        dry_run=is_on(metadata, DRY_RUN),
    )


def _to_rule(namespace: str, rule: JsonObject) -> AuthorizationRule:
    return AuthorizationRule(
        sources=tuple(_to_source(namespace, obj(s, "source")) for s in objects(rule, "from")),
        operations=tuple(_to_operation(obj(o, "operation")) for o in objects(rule, "to")),
        when=tuple(_to_when(namespace, entry) for entry in objects(rule, "when")),
    )


def _to_source(namespace: str, source: JsonObject) -> AuthorizationSource:
    return AuthorizationSource(
        principals=texts(source, "principals"),
        not_principals=texts(source, "notPrincipals"),
        request_principals=texts(source, "requestPrincipals"),
        not_request_principals=texts(source, "notRequestPrincipals"),
        namespaces=texts(source, "namespaces"),
        not_namespaces=texts(source, "notNamespaces"),
        service_accounts=_accounts(namespace, texts(source, "serviceAccounts")),
        not_service_accounts=_accounts(namespace, texts(source, "notServiceAccounts")),
        ip_blocks=texts(source, "ipBlocks"),
        not_ip_blocks=texts(source, "notIpBlocks"),
        remote_ip_blocks=texts(source, "remoteIpBlocks"),
        not_remote_ip_blocks=texts(source, "notRemoteIpBlocks"),
    )


def _accounts(namespace: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Each with its namespace."""
    return tuple(name if "/" in name else f"{namespace}/{name}" for name in names)


def _to_operation(operation: JsonObject) -> Operation:
    return Operation(
        hosts=texts(operation, "hosts"),
        not_hosts=texts(operation, "notHosts"),
        ports=tuple(map(int, texts(operation, "ports"))),
        not_ports=tuple(map(int, texts(operation, "notPorts"))),
        methods=texts(operation, "methods"),
        not_methods=texts(operation, "notMethods"),
        paths=texts(operation, "paths"),
        not_paths=texts(operation, "notPaths"),
    )


def _to_when(namespace: str, entry: JsonObject) -> When:
    when = When(text(entry, "key"), texts(entry, "values"), texts(entry, "notValues"))
    if when.condition.kind is not ConditionKind.SOURCE_SERVICE_ACCOUNT:
        return when
    values, not_values = when.values, when.not_values
    return When(when.key, _accounts(namespace, values), _accounts(namespace, not_values))
