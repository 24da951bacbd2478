"""Kuma's TrafficPermission and MeshTrafficPermission: schemas and conversion.

Source: kuma `api/mesh/v1alpha1/traffic_permission.proto`, `meshtrafficpermission.go` and its
validator (2.12 to 3.0), `api/common/v1alpha1/ref.go`, page "MeshTrafficPermission".

`Prefix`: Kuma's page reads `spiffe://td/ns/legacy-ns` as "identities under the namespace", its code
compares texts, so that `.../ns/legacy-ns` also matches `.../ns/legacy-ns-2`. Limen does what the
page says: a prefix matches whole segments. One that could never match a whole segment
(`.../ns/team-`) is refused, because a DENY would silently match less than in Kuma.
"""

from __future__ import annotations

import re

from limen.core.dialects.document import Findings, JsonObject, JsonValue, child, show
from limen.core.dialects.fields import obj, objects, text
from limen.core.dialects.metadata import LABEL_KEY, LABEL_VALUE, NAME
from limen.core.dialects.schema import (
    Choice,
    Field,
    ListOf,
    MapOf,
    Refused,
    Struct,
    Text,
)
from limen.core.dialects.tags import SELECTORS, to_tags
from limen.core.model.names import parse_spiffe_id
from limen.core.model.permission import (
    MatchType,
    MeshTrafficPermission,
    PermissionRule,
    SpiffeIdMatch,
    TargetRef,
    TrafficPermission,
)
from limen.errors import InvalidInput

KUMA_SYSTEM_NAMESPACE = "kuma-system"
"""Policies in it concern the whole mesh, as policies without a namespace do."""

TRAFFIC_PERMISSION = Struct(
    {
        "sources": Field(SELECTORS, required=True, note="who may call"),
        "destinations": Field(SELECTORS, required=True, note="who may be called"),
    }
)

_LABELS_INSTEAD = "write kind: Dataplane with labels, for example labels: {app: items}"
_SEGMENT = r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]*[a-zA-Z0-9])?"
_PREFIX = re.compile(
    rf"spiffe://[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?"
    rf"(?:/ns(?:/{_SEGMENT}(?:/sa(?:/(?P<account>{_SEGMENT}))?)?)?)?/?",
    re.ASCII,
)


def _check_spiffe_id(match: JsonObject, path: str, out: Findings) -> None:
    value, place = text(match, "value"), child(path, "value")
    if match["type"] == MatchType.EXACT.value:
        if not _is_spiffe_id(value):
            out.error(
                "invalid-spiffe-id",
                f"{show(value, 200)} is not an identity that a workload can have",
                place,
                "write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT",
            )
        return
    parts = _PREFIX.fullmatch(value)
    if parts is None:
        out.error(
            "invalid-spiffe-prefix",
            f"{show(value, 200)} does not end where a part of an identity ends: it matches nothing",
            place,
            "prefixes match whole parts; write spiffe://TRUST-DOMAIN or "
            "spiffe://TRUST-DOMAIN/ns/NAMESPACE, and one entry for each namespace",
        )
    elif parts["account"]:
        out.warn(
            "prefix-is-exact",
            "this prefix is a whole identity and matches only that one",
            place,
            "write type: Exact",
        )


def _is_spiffe_id(value: str) -> bool:
    try:
        parse_spiffe_id(value)
    except InvalidInput:
        return False
    return True


MATCHES = ListOf(
    Struct(
        {
            "spiffeID": Field(
                Struct(
                    {
                        "type": Field(Choice(("Exact", "Prefix")), required=True),
                        "value": Field(Text("a SPIFFE ID", max_length=2048), required=True),
                    },
                    (_check_spiffe_id,),
                ),
                required=True,
                note="write spiffeID: {type: Exact, value: spiffe://...}",
            ),
            "sni": Field(Refused("matching by SNI is a later version; match by spiffeID")),
            "targetRef": Field(Refused("destinations in rules are a later version: remove it")),
        }
    )
)


def _check_rule(rule: JsonObject, path: str, out: Findings) -> None:
    if not obj(rule, "default"):
        out.error(
            "missing-field",
            "the rule says nothing",
            path,
            "write at least one of deny, allow, allowWithShadowDeny",
        )


def _check_target(target: JsonObject, path: str, out: Findings) -> None:
    if target["kind"] == "Mesh":
        for name in ("name", "namespace", "labels", "sectionName"):
            if name in target:
                out.error(
                    "bad-value",
                    f"{name} has no meaning for kind: Mesh",
                    child(path, name),
                    "remove it, or write kind: Dataplane",
                )
    elif "labels" in target and ("name" in target or "namespace" in target):
        out.error(
            "bad-value",
            "labels and name cannot be used together",
            child(path, "labels"),
            "choose proxies by labels, or one by name",
        )
    elif "namespace" in target and "name" not in target:
        out.error("missing-field", "namespace needs a name beside it", path, "name the Dataplane")


TARGET_REF = Struct(
    {
        "kind": Field(
            Choice(
                ("Mesh", "Dataplane"),
                {
                    "MeshSubset": _LABELS_INSTEAD,
                    "MeshService": _LABELS_INSTEAD,
                    "MeshServiceSubset": _LABELS_INSTEAD,
                    "MeshGateway": "gateways are a later version",
                    "MeshHTTPRoute": "routes are a later version; " + _LABELS_INSTEAD,
                    "MeshExternalService": "external services are a later version",
                    "MeshMultiZoneService": "several zones are a later version; " + _LABELS_INSTEAD,
                },
            ),
            required=True,
        ),
        "name": Field(NAME, note="of a Dataplane"),
        "namespace": Field(NAME, note="of that Dataplane; the policy's if absent"),
        "labels": Field(MapOf(LABEL_KEY, LABEL_VALUE), note="of Dataplanes; all must match"),
        "sectionName": Field(
            Text("a port's name or number", re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"), 1, 63),
            note="one inbound, by its name or port; all if absent",
        ),
        "tags": Field(Refused("selecting by tags is not supported: " + _LABELS_INSTEAD)),
        "proxyTypes": Field(Refused("there are only sidecars so far: remove it")),
        "mesh": Field(Refused("policies do not reach into another mesh: remove it")),
    },
    (_check_target,),
)

MESH_TRAFFIC_PERMISSION = Struct(
    {
        "targetRef": Field(TARGET_REF, note="all proxies if absent"),
        "rules": Field(
            ListOf(
                Struct(
                    {
                        "default": Field(
                            Struct(
                                {
                                    "deny": Field(MATCHES),
                                    "allow": Field(MATCHES),
                                    "allowWithShadowDeny": Field(MATCHES),
                                }
                            ),
                            required=True,
                            note="write deny, allow or allowWithShadowDeny under it",
                        ),
                        "matches": Field(Refused("matching requests is a later version")),
                    },
                    (_check_rule,),
                )
            ),
            required=True,
            note="a policy without rules says nothing",
        ),
        "from": Field(
            Refused(
                "the older from lists are a later version; write rules with spiffeID entries, "
                "deny wins there, whatever the order",
                code="from-not-supported",
            )
        ),
        "to": Field(Refused("outbound rules do not exist for this kind: remove it")),
    }
)


def to_traffic_permission(spec: JsonObject, created: str) -> TrafficPermission:
    """A checked spec. `created` is normalised UTC text, "" if the document states no time."""
    return TrafficPermission(
        tuple(to_tags(selector["match"]) for selector in objects(spec, "sources")),
        tuple(to_tags(selector["match"]) for selector in objects(spec, "destinations")),
        created,
    )


def to_mesh_traffic_permission(spec: JsonObject, namespace: str) -> MeshTrafficPermission:
    """A checked spec. `namespace` is the one that the document states, "" if none.

    As in Kuma, a policy in a namespace concerns the proxies of that namespace only, unless the
    namespace is the system's: then `TargetRef.namespace` is "".
    """
    namespace = "" if namespace == KUMA_SYSTEM_NAMESPACE else namespace
    target = obj(spec, "targetRef")
    rules = tuple(_to_rule(obj(rule, "default")) for rule in objects(spec, "rules"))
    labels = to_tags(target.get("labels", {}))
    name = text(target, "name")
    reference = TargetRef(
        whole_mesh=not (name or labels),
        name=name,
        namespace=text(target, "namespace", namespace),
        labels=labels,
        section=text(target, "sectionName"),
    )
    return MeshTrafficPermission(reference, rules)


def _to_rule(default: JsonObject) -> PermissionRule:
    return PermissionRule(
        deny=_to_matches(default, "deny"),
        allow_with_shadow_deny=_to_matches(default, "allowWithShadowDeny"),
        allow=_to_matches(default, "allow"),
    )


def _to_matches(default: JsonObject, name: str) -> tuple[SpiffeIdMatch, ...]:
    matches: list[SpiffeIdMatch] = []
    for entry in objects(default, name):
        match = obj(entry, "spiffeID")
        value: JsonValue = match["value"]
        matches.append(SpiffeIdMatch(MatchType(match["type"]), str(value).rstrip("/")))
    return tuple(matches)
