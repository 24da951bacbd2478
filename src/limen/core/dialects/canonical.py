"""Bringing one document into canonical shape: fields moved, and their lines with them.

Kuma's flat shape and its old top-level `mesh:` become Kubernetes' shape; what a server or a tool
made is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, JsonValue, child, show
from limen.core.dialects.kinds import Flat, Kind
from limen.core.dialects.metadata import (
    DROPPED_ANNOTATIONS,
    MESH_LABEL,
    NAMESPACE_LABEL,
    SERVER_MADE,
)
from limen.core.model.names import DEFAULT_MESH, DEFAULT_NAMESPACE
from limen.core.model.resource import ResourceKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MESH_PATH = child("/metadata/labels", MESH_LABEL)
_FLAT_METADATA = {
    "name": "/metadata/name",
    "mesh": _MESH_PATH,
    "labels": "/metadata/labels",
    "creationTime": "/metadata/creationTimestamp",
}
_FLAT_SERVER_MADE = frozenset({"modificationTime", "kri", "status"})


@dataclass(frozen=True, slots=True)
class Raw:
    """A resource-like object of a file, its lines, and where in the file it lies."""

    body: JsonObject
    lines: Mapping[str, int]
    base: str = ""


class Canonical:
    """Moves the fields of one document into canonical shape, and their lines with them."""

    def __init__(self, kind: Kind, raw: Raw, *, flat: bool) -> None:
        self._kind = kind
        self._raw = raw
        self._flat = flat

    def body(self) -> JsonObject:
        """The canonical body; values that are not objects are left for `validate`."""
        source = self._raw.body
        body: JsonObject = {
            "apiVersion": self._kind.api_version,
            "kind": self._kind.short,
            "metadata": {},
        }
        metadata = self._flat_metadata() if self._flat else source.get("metadata", {})
        body["metadata"] = self._with_mesh(_trimmed(metadata))
        if not self._flat and "metadata" not in source and "mesh" not in source:
            del body["metadata"]
        for name, value in source.items():
            if self._is_envelope(name):
                continue
            if self._flat and self._kind.flat is Flat.TOP:
                spec = body.setdefault("spec", {})
                if isinstance(spec, dict):
                    spec[name] = value
            else:
                body[name] = value
        return body

    def _is_envelope(self, name: str) -> bool:
        if self._flat:
            return name == "type" or name in _FLAT_METADATA or name in _FLAT_SERVER_MADE
        legacy = name == "mesh" and self._kind.legacy_mesh
        return legacy or name in ("apiVersion", "kind", "metadata", "status")

    def _flat_metadata(self) -> JsonObject:
        source = self._raw.body
        names = (("name", "name"), ("labels", "labels"), ("creationTime", "creationTimestamp"))
        return {target: source[name] for name, target in names if name in source}

    def _with_mesh(self, metadata: JsonValue) -> JsonValue:
        """`metadata` with the label for a top-level `mesh`; of a Mesh its name says it."""
        mesh = self._raw.body.get("mesh") if self._flat or self._kind.legacy_mesh else None
        if mesh is None or self._kind.own_mesh or not isinstance(metadata, dict):
            return metadata
        labels = metadata.get("labels", {})
        if isinstance(labels, dict):
            metadata = {**metadata, "labels": {**labels, MESH_LABEL: labels.get(MESH_LABEL, mesh)}}
        return metadata

    def lines(self) -> dict[str, int]:
        """Lines by canonical path."""
        lines: dict[str, int] = {}
        for path, line in self._raw.lines.items():
            lines.setdefault(self._moved(path), line)
        start = lines.get("", 0)
        lines.setdefault("/metadata", start)
        return lines

    def _moved(self, path: str) -> str:
        _, _, rest = path.partition("/")
        top, separator, below = rest.partition("/")
        if not self._flat:
            return _MESH_PATH if top == "mesh" and self._kind.legacy_mesh else path
        if not top:
            return path
        if top == "type":
            return "/kind"
        if top in _FLAT_METADATA:
            return _FLAT_METADATA[top] + separator + below
        return f"/spec{path}" if self._kind.flat is Flat.TOP else path

    def shown(self) -> Iterator[tuple[str, str]]:
        """Canonical prefixes and how they stand in the file."""
        legacy = "mesh" in self._raw.body and (self._flat or self._kind.legacy_mesh)
        if legacy:
            yield _MESH_PATH, "/mesh"
        if self._flat:
            yield "/metadata/name", "/name"
            yield "/metadata/labels", "/labels"
            yield "/metadata/creationTimestamp", "/creationTime"
            yield "/metadata", ""
            yield "/kind", "/type"
            if self._kind.flat is Flat.TOP:
                yield "/spec", ""
        yield "", ""


def _trimmed(metadata: JsonValue) -> JsonValue:
    """`metadata` without what a server or a tool made."""
    if not isinstance(metadata, dict):
        return metadata
    kept = {name: value for name, value in metadata.items() if name not in SERVER_MADE}
    if kept.get("creationTimestamp", "") is None:
        del kept["creationTimestamp"]
    annotations = kept.get("annotations")
    if isinstance(annotations, dict) and DROPPED_ANNOTATIONS & annotations.keys():
        rest = {k: v for k, v in annotations.items() if k not in DROPPED_ANNOTATIONS}
        kept["annotations"] = rest
        if not rest:
            del kept["annotations"]
    return kept


def check_mesh(kind: Kind, source: JsonObject, body: JsonObject, out: Findings) -> None:
    """The mesh is a text and is named once, or twice the same."""
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    labels = metadata.get("labels")
    label = labels.get(MESH_LABEL) if isinstance(labels, dict) else None
    reads_mesh = kind.legacy_mesh or "kind" not in source
    legacy = source.get("mesh") if reads_mesh else None
    if "mesh" in source and reads_mesh and not isinstance(legacy, str):
        out.error("wrong-type", "mesh must be a text", _MESH_PATH, "name the mesh, in quotes")
        return
    names = {name for name in (label, legacy) if isinstance(name, str)}
    if kind.own_mesh and isinstance(metadata.get("name"), str):
        names.add(str(metadata["name"]))
    if len(names) > 1:
        meshes = " and ".join(sorted(map(show, names)))
        hint = "it belongs to the mesh that it is named as" if kind.own_mesh else "name one mesh"
        out.error("conflicting-mesh", f"the document names two meshes: {meshes}", _MESH_PATH, hint)


def key_of(kind: Kind, body: JsonObject) -> ResourceKey:
    """The key, as far as the body can be trusted; `validate` judges the names in it."""
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    labels = metadata.get("labels")
    labels = labels if isinstance(labels, dict) else {}
    name = _text(metadata.get("name"), "")
    if kind.own_mesh:
        return ResourceKey(kind.name, name, DEFAULT_NAMESPACE, name)
    namespace = _text(metadata.get("namespace"), _text(labels.get(NAMESPACE_LABEL), ""))
    mesh = _text(labels.get(MESH_LABEL), DEFAULT_MESH)
    return ResourceKey(kind.name, mesh, namespace or DEFAULT_NAMESPACE, name)


def _text(value: JsonValue, default: str) -> str:
    return value if isinstance(value, str) else default
