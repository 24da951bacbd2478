"""What the kinds of `security.istio.io` have in common: scope, annotations, versions.

Source: istio/api `type/v1beta1/selector.proto`, istio/istio `pkg/config/validation`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import obj, objects, text
from limen.core.dialects.metadata import LABEL_KEY, LABEL_VALUE, NAME
from limen.core.dialects.schema import Choice, Field, ListOf, MapOf, Refused, Struct, Text
from limen.core.dialects.tags import to_tags
from limen.core.model.selector import PolicyTarget, Scope, TargetKind

if TYPE_CHECKING:
    from limen.core.dialects.schema import Rule

API_VERSION = "security.istio.io/v1"
OLDER_VERSIONS = ("security.istio.io/v1beta1",)
DRY_RUN = "istio.io/dry-run"
TOKEN_REQUIRED = "limen.dev/token-required"  # noqa: S105 - the name of an annotation
INSECURE_JWKS = "limen.dev/insecure-jwks"

_GROUPS = {
    "Gateway": ("gateway.networking.k8s.io",),
    "Service": ("", "core"),
}


def _check_target(target: JsonObject, path: str, out: Findings) -> None:
    kind, group = text(target, "kind"), text(target, "group")
    if group not in _GROUPS[kind]:
        out.error(
            "unknown-value",
            f"a {kind} is not of the group {show(group)}",
            child(path, "group"),
            f"write group: {_GROUPS[kind][0]}" if _GROUPS[kind][0] else "leave group out",
        )


_SELECTOR = Struct(
    {
        "matchLabels": Field(
            MapOf(LABEL_KEY, LABEL_VALUE),
            required=True,
            note="all must match; leave selector out to mean every workload",
        ),
        "matchExpressions": Field(Refused("Istio has matchLabels only")),
    }
)
_TARGET = Struct(
    {
        "kind": Field(
            Choice(
                ("Gateway", "Service"),
                {
                    "ServiceEntry": "services outside the mesh are a later version",
                    "GatewayClass": "name each Gateway",
                    "HTTPRoute": "routes are a later version; name the Gateway or Service",
                },
            ),
            required=True,
        ),
        "name": Field(NAME, required=True, note="in the policy's own namespace"),
        "group": Field(
            Text("a group", min_length=0, max_length=253),
            note="gateway.networking.k8s.io of a Gateway; empty of a Service",
        ),
        "namespace": Field(Refused("a policy concerns its own namespace only: remove it")),
        "sectionName": Field(Refused("a policy concerns the whole target: remove it")),
    },
    (_check_target,),
)

SELECTOR_ONLY = {
    "selector": Field(_SELECTOR, note="every workload of the namespace if absent"),
    "targetRef": Field(Refused("this kind has a selector only")),
    "targetRefs": Field(Refused("this kind has a selector only")),
}
SCOPE = {
    "selector": Field(_SELECTOR, note="every workload of the namespace if absent"),
    "targetRefs": Field(ListOf(_TARGET, maximum=16), note="instead of selector"),
    "targetRef": Field(_TARGET, note="the older form of targetRefs with one entry"),
}


def check_scope(spec: JsonObject, path: str, out: Findings) -> None:
    """At most one of selector, targetRef and targetRefs."""
    given = [name for name in ("selector", "targetRef", "targetRefs") if name in spec]
    if len(given) > 1:
        out.error(
            "conflicting-fields",
            f"{' and '.join(given)} cannot be used together",
            child(path, given[1]),
            "choose workloads by labels, or name what the policy is for",
        )


def to_scope(namespace: str, spec: JsonObject) -> Scope:
    """The scope of a checked spec in `namespace`."""
    refs = [obj(spec, "targetRef")] if "targetRef" in spec else objects(spec, "targetRefs")
    return Scope(
        namespace,
        to_tags(obj(spec, "selector").get("matchLabels", {})),
        tuple(PolicyTarget(TargetKind(ref["kind"]), text(ref, "name")) for ref in refs),
    )


def is_on(metadata: JsonObject, annotation: str) -> bool:
    """Whether a checked annotation says "true"."""
    return obj(metadata, "annotations").get(annotation) == "true"


def annotations_rule(own: frozenset[str]) -> Rule:
    """A rule over a whole document: the switches in `own` are "true" or "false", no other stands.

    A switch that this kind does not have would be believed and not followed.
    """

    def check_switches(document: JsonObject, path: str, out: Findings) -> None:
        place = child(child(path, "metadata"), "annotations")
        annotations = obj(obj(document, "metadata"), "annotations")
        _check_spelling(obj(document, "metadata"), child(path, "metadata"), out)
        for name in (DRY_RUN, TOKEN_REQUIRED, INSECURE_JWKS):
            value = annotations.get(name)
            if value is not None and name not in own:
                out.error(
                    "unknown-annotation",
                    f"the annotation {name} has no meaning for this kind",
                    child(place, name),
                    "remove it",
                )
            elif value not in (None, "true", "false"):
                message = f'{show(value)} is neither "true" nor "false"'
                out.error("bad-value", message, child(place, name), 'write "true", in quotes')

    return check_switches


_ALMOST_DRY_RUN = re.compile(r"(?:.*istio\.io/)?dry[-_.]?run", re.IGNORECASE)


def _check_spelling(metadata: JsonObject, path: str, out: Findings) -> None:
    """A trial that is misspelt would be enforced: what was only to be watched would let in."""
    for field, what in (("annotations", "annotation"), ("labels", "label")):
        for name in obj(metadata, field):
            right = what == "annotation" and name == DRY_RUN
            if not right and _ALMOST_DRY_RUN.fullmatch(name):
                message = f"the {what} {show(name)} has no meaning: this policy would be enforced"
                hint = f"write the annotation {DRY_RUN}, or remove it"
                out.error(f"unknown-{what}", message, child(child(path, field), name), hint)
