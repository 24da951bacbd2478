"""`metadata` of every kind: what names a resource, what a server made, which labels mean something.

Labels and annotations that Kuma or Limen give a meaning are a closed list: one that is not on it is
refused, because it might change what a policy does (`kuma.io/effect: shadow` does).
"""

from __future__ import annotations

import datetime as dt
import re
from functools import partial
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonValue, child, show
from limen.core.dialects.schema import (
    Field,
    MapOf,
    ServerMade,
    Struct,
    Text,
    check,
    suggestion,
)
from limen.core.model.names import parse_name
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

MESH_LABEL = "kuma.io/mesh"
NAMESPACE_LABEL = "k8s.kuma.io/namespace"
SERVICE_ACCOUNT_LABEL = "k8s.kuma.io/service-account"
OWN_SERVICE_ACCOUNT_LABEL = "limen.dev/service-account"

LABELS: dict[str, str] = {
    MESH_LABEL: "the mesh that it belongs to; `default` if absent",
    NAMESPACE_LABEL: "the namespace, where `metadata.namespace` is absent",
    SERVICE_ACCOUNT_LABEL: "of a Dataplane: its service account; else the name of its service",
    OWN_SERVICE_ACCOUNT_LABEL: "the same as k8s.kuma.io/service-account",
    "kuma.io/display-name": "kept, no effect",
    "kuma.io/env": "kept, no effect",
    "kuma.io/origin": "kept, no effect",
    "kuma.io/zone": "kept, no effect (there is one zone)",
    "kuma.io/policy-role": "kept; the role follows from the namespace, as in Kuma",
    "kuma.io/proxy-type": "kept, no effect",
    "kuma.io/workload": "kept, no effect",
    "kuma.io/managed-by": "kept, no effect",
    "kuma.io/service": "kept, no effect (the tag of an inbound counts)",
    "kuma.io/service-name": "kept, no effect",
    "kuma.io/protocol": "kept, no effect (the tag of an inbound counts)",
    "k8s.kuma.io/service-name": "kept, no effect",
    "k8s.kuma.io/service-port": "kept, no effect",
    "k8s.kuma.io/is-headless-service": "kept, no effect",
}
"""Labels with a prefix of Kuma or Limen that are accepted, and what they do."""

REFUSED_LABELS: dict[str, str] = {
    "kuma.io/effect": "shadow policies are not supported; use allowWithShadowDeny, or remove it",
    "kuma.io/gateway": "gateways are a later version",
}

ANNOTATIONS: dict[str, str] = {
    "kuma.io/display-name": "kept, no effect",
    "kuma.io/mesh": "accepted where it names the same mesh as the label",
    "k8s.kuma.io/synced": "kept, no effect",
}
NO_OWN: Mapping[str, str] = {}
DROPPED_ANNOTATIONS = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
OWN_PREFIXES = ("kuma.io/", "k8s.kuma.io/", "limen.dev/")

_KEY = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?",
    re.ASCII,
)
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)?", re.ASCII)

LABEL_KEY = Text(
    "a label's name",
    _KEY,
    1,
    317,
    "write letters, digits, '-', '_' and '.', after a prefix and '/' if you like",
)
LABEL_VALUE = Text(
    "a label's value", _VALUE, 0, 253, "letters, digits, '-', '_' and '.', no spaces, ASCII only"
)
NAME = Text("a name", max_length=253, parse=parse_name)

SERVER_MADE = (
    "uid",
    "resourceVersion",
    "generation",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
)


def _known_only(
    names: tuple[str, ...], path: str, out: Findings, what: str, known: dict[str, str]
) -> None:
    for name in names:
        if name in known or not name.startswith(OWN_PREFIXES):
            continue
        if name in REFUSED_LABELS:
            out.error(
                f"refused-{what}",
                f"the {what} {name} is not supported",
                child(path, name),
                REFUSED_LABELS[name],
            )
        else:
            out.error(
                f"unknown-{what}",
                f"the {what} {show(name)} is not known, and its prefix is Kuma's or Limen's",
                child(path, name),
                suggestion(name, tuple(known)),
            )


def parse_timestamp(value: str) -> str:
    """An RFC 3339 time as UTC text that sorts, `2024-01-01T00:00:00.000000Z`; "" stays "".

    Raises InvalidInput (code `bad-value`).
    """
    if not value:
        return ""
    try:
        moment = dt.datetime.fromisoformat(value) if _TIME.fullmatch(value) else None
        utc = None if moment is None else moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        utc = None
    if utc is None:
        raise InvalidInput(
            f"{show(value)} is not a time",
            code="bad-value",
            hint="write it like 2024-01-31T12:00:00Z, or remove it",
        )
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def check_labels(
    metadata: dict[str, JsonValue], path: str, out: Findings, own: Mapping[str, str] = NO_OWN
) -> None:
    """Labels and annotations under Kuma's and Limen's prefixes are known or the kind's own."""
    for field, what, known in (
        ("labels", "label", LABELS),
        ("annotations", "annotation", {**ANNOTATIONS, **own}),
    ):
        value = metadata.get(field)
        if isinstance(value, dict):
            _known_only(tuple(value), child(path, field), out, what, known)
    labels, annotations = metadata.get("labels"), metadata.get("annotations")
    if isinstance(labels, dict):
        _check_names(labels, metadata, path, out)
    if isinstance(labels, dict) and isinstance(annotations, dict):
        mesh = annotations.get(MESH_LABEL)
        if mesh is not None and mesh != labels.get(MESH_LABEL):
            out.error(
                "conflicting-mesh",
                f"the annotation {MESH_LABEL} names another mesh than the label",
                child(child(path, "annotations"), MESH_LABEL),
                "keep the label",
            )


def metadata_schema(own: Mapping[str, str] = NO_OWN) -> Struct:
    """The schema of `metadata` of every kind; `own` are annotations that only this kind has."""
    return Struct(
        {
            "name": Field(NAME, required=True, note="give the resource a name"),
            "namespace": Field(NAME, note="`default` if absent"),
            "labels": Field(MapOf(LABEL_KEY, LABEL_VALUE, may_be_empty=True)),
            "annotations": Field(
                MapOf(LABEL_KEY, Text("an annotation", None, 0, 262_144), may_be_empty=True),
                note="no effect, but for those listed below",
            ),
            "creationTimestamp": Field(
                Text("a time", max_length=40, parse=parse_timestamp),
                note="breaks a tie of two TrafficPermissions",
            ),
            **{name: Field(ServerMade()) for name in SERVER_MADE},
        },
        (partial(check_labels, own=own),),
    )


def _check_names(
    labels: dict[str, JsonValue], metadata: dict[str, JsonValue], path: str, out: Findings
) -> None:
    """Labels that name something name it properly, and no two of them contradict each other."""
    place = child(path, "labels")
    for label in (MESH_LABEL, NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL, OWN_SERVICE_ACCOUNT_LABEL):
        if label in labels:
            check(NAME, labels[label], child(place, label), out)
    pairs = (
        (NAMESPACE_LABEL, metadata.get("namespace"), "metadata.namespace"),
        (SERVICE_ACCOUNT_LABEL, labels.get(OWN_SERVICE_ACCOUNT_LABEL), OWN_SERVICE_ACCOUNT_LABEL),
    )
    for label, other, where in pairs:
        if label in labels and other is not None and labels[label] != other:
            out.error(
                "conflicting-names",
                f"the label {label} and {where} differ",
                child(place, label),
                "keep one of them",
            )
