"""`limen.dev/v1`: what no other project has a kind for. MeshSettings, and the internal Cutover."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.duration import parse_duration
from limen.core.dialects.fields import obj, text, whole
from limen.core.dialects.limen_providers import PROVIDERS, check_providers, to_providers
from limen.core.dialects.schema import Choice, Duration, Field, Flag, ListOf, Struct, Text, Whole
from limen.core.model.mesh import DEFAULT_ROOT_NAMESPACE, Isolation, MeshSettings, WhenStale
from limen.core.model.names import parse_name, parse_trust_domain
from limen.core.model.workload import Cutover
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.model.resource import ResourceKey

API_VERSION = "limen.dev/v1"
_TRUST_DOMAIN = Text("a trust domain", max_length=255, parse=parse_trust_domain)
_YEAR_S = 365 * 86400


def _check_aliases(spec: JsonObject, path: str, out: Findings) -> None:
    aliases = _texts(spec, "trustDomainAliases")
    for index, alias in enumerate(aliases):
        if alias in aliases[:index] or alias == spec.get("trustDomain"):
            place = child(child(path, "trustDomainAliases"), index)
            out.error("duplicate-name", f"the trust domain {show(alias)} stands twice", place)
    if "whenStale" in spec and "maxStaleness" not in spec:
        out.error(
            "missing-field",
            "whenStale needs maxStaleness beside it",
            path,
            "say how old a policy may become, for example maxStaleness: 1h",
        )


def _parse_rule_header(value: str) -> None:
    if not re.fullmatch(r"x-(?!envoy-|forwarded-)[a-z0-9]+(?:-[a-z0-9]+)*", value, re.ASCII):
        raise InvalidInput(
            f"{show(value)} cannot be the header of the rule",
            code="bad-value",
            hint="write a name of your own in lower case: x-limen-rule",
        )


MESH_SETTINGS = Struct(
    {
        "trustDomain": Field(
            _TRUST_DOMAIN, note="<mesh>.mesh.local if absent; never changes once in use"
        ),
        "trustDomainAliases": Field(
            ListOf(_TRUST_DOMAIN, maximum=100), note="older names whose identities count as ours"
        ),
        "rootNamespace": Field(
            Text("a namespace", max_length=253, parse=lambda t: parse_name(t, "namespace")),
            note="istio-system if absent",
        ),
        "defaultAction": Field(
            Choice(("Deny", "Allow")),
            note="for a workload that no policy concerns; Deny if absent. Allow is Istio's way",
        ),
        "maxStaleness": Field(
            Duration(1, _YEAR_S), note="how old a cut-off agent's policy may become; no limit"
        ),
        "whenStale": Field(Choice(("Keep", "Refuse")), note="beyond maxStaleness; Keep if absent"),
        "minOutageBudget": Field(
            Duration(1, _YEAR_S), note="shortest server outage that certificates must outlive"
        ),
        "minIsolation": Field(
            Choice(("None", "Uid", "NetworkNamespace")),
            note="how well a workload must be separated from its host; None if absent",
        ),
        "maxConnectionAge": Field(Duration(1, _YEAR_S), note="connections older than it end"),
        "accessLog": Field(
            Choice(("Denied", "All")),
            note="which requests proxies log: refused, reported and failed ones (Denied, if "
            "absent), or All",
        ),
        "ruleHeader": Field(
            Text("a header", max_length=64, parse=_parse_rule_header),
            note="names the rule that decided in every response: `x-…`; no header if absent",
        ),
        "gateways": Field(
            Struct(
                {
                    "numTrustedProxies": Field(
                        Whole(0, 16),
                        note="proxies in front of gateways whose x-forwarded-for counts; 0 if "
                        "absent",
                    ),
                    "proxyProtocol": Field(
                        Flag(),
                        note="every connection to a gateway begins with a PROXY header; false if "
                        "absent",
                    ),
                    "scopeToNamespace": Field(
                        Flag(),
                        note="a gateway workload serves Gateways of its own and of the root "
                        "namespace only; false if absent, as in Istio",
                    ),
                }
            )
        ),
        "extensionProviders": PROVIDERS,
    },
    (_check_aliases, check_providers),
)

CUTOVER = Struct({"revision": Field(Whole(0, 2**62), required=True)})


def to_mesh_settings(spec: JsonObject) -> MeshSettings:
    """A checked spec."""
    return MeshSettings(
        trust_domain=text(spec, "trustDomain") or None,
        trust_domain_aliases=tuple(_texts(spec, "trustDomainAliases")),
        root_namespace=text(spec, "rootNamespace", DEFAULT_ROOT_NAMESPACE),
        default_allow=spec.get("defaultAction") == "Allow",
        max_staleness_s=_seconds(spec, "maxStaleness"),
        when_stale=WhenStale(text(spec, "whenStale", WhenStale.KEEP.value)),
        min_outage_budget_s=_seconds(spec, "minOutageBudget"),
        min_isolation=Isolation(text(spec, "minIsolation", Isolation.NONE.value)),
        max_connection_age_s=_seconds(spec, "maxConnectionAge"),
        rule_header=text(spec, "ruleHeader"),
        log_all=text(spec, "accessLog") == "All",
        providers=to_providers(spec),
        trusted_hops=whole(obj(spec, "gateways"), "numTrustedProxies", 0),
        proxy_protocol=obj(spec, "gateways").get("proxyProtocol") is True,
        scope_gateways=obj(spec, "gateways").get("scopeToNamespace") is True,
    )


def to_cutover(spec: JsonObject) -> Cutover:
    """A checked spec."""
    return Cutover(whole(spec, "revision"))


def cutover_body(key: ResourceKey, revision: int) -> JsonObject:
    """The body that a server stores for `key` (kind Cutover, named as the workload)."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Cutover",
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "labels": {"kuma.io/mesh": key.mesh},
        },
        "spec": {"revision": revision},
    }


def _texts(spec: JsonObject, name: str) -> list[str]:
    found = spec.get(name, [])
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _seconds(spec: JsonObject, name: str) -> int | None:
    return int(parse_duration(text(spec, name))) if name in spec else None
