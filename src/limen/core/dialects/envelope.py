"""From YAML values to `Document`s: Lists unfolded, both of Kuma's shapes brought into one.

The canonical body has `apiVersion`, `kind`, `metadata` and `spec`; what a server made (`status`,
`metadata.uid` ...) is left out, and the mesh stands in the label `kuma.io/mesh`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limen.core.dialects.document import (
    Document,
    Findings,
    JsonObject,
    JsonValue,
    child,
    show,
)
from limen.core.dialects.kinds import (
    BY_NAME,
    KUMA_KINDS,
    LATER,
    LATER_CORE_KINDS,
    PUBLIC,
    Flat,
    Kind,
)
from limen.core.dialects.metadata import (
    DROPPED_ANNOTATIONS,
    MESH_LABEL,
    NAMESPACE_LABEL,
    SERVER_MADE,
)
from limen.core.dialects.schema import suggestion
from limen.core.dialects.yaml_reader import RawDocument, read_yaml
from limen.core.model.names import DEFAULT_MESH, DEFAULT_NAMESPACE
from limen.core.model.resource import ResourceKey
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.model.diagnostic import Diagnostic

Lines = Mapping[str, int]
_MESH_PATH = child("/metadata/labels", MESH_LABEL)
_FLAT_METADATA = {
    "name": "/metadata/name",
    "mesh": _MESH_PATH,
    "labels": "/metadata/labels",
    "creationTime": "/metadata/creationTimestamp",
}
_KUBERNETES_LIST = frozenset({"apiVersion", "kind", "metadata", "items"})
_KUMA_LIST = frozenset({"items", "next", "total"})
_FLAT_SERVER_MADE = frozenset({"modificationTime", "kri", "status"})


@dataclass(frozen=True, slots=True)
class _Raw:
    """A resource-like object of a file, its lines, and where in the file it lies."""

    body: JsonObject
    lines: Lines
    base: str = ""


def parse_documents(
    data: bytes, file: str = ""
) -> tuple[tuple[Document, ...], tuple[Diagnostic, ...]]:
    """The documents of one file that have a known kind, and all findings so far.

    Bodies are not judged yet (`validate`). Never raises for any `data`.
    """
    raws, diagnostics = read_yaml(data, file)
    found = list(diagnostics)
    documents: list[Document] = []
    for raw in raws:
        findings = Findings(file, raw.lines)
        for item in _unfolded(raw, findings):
            document = _document(item, file, findings)
            if document is not None:
                documents.append(document)
        found.extend(findings.diagnostics)
    return tuple(documents), tuple(found)


def stored_form(document: Document) -> JsonObject:
    """What a server stores of a document: `{"body", "file", "lines"}`."""
    return {
        "body": document.body,
        "file": document.file,
        "lines": dict(document.lines),
    }


def document_from_stored(stored: Mapping[str, Any]) -> Document:
    """The document that `stored_form` was made of; paths are those of the canonical body.

    The body is not judged yet. Internal kinds are accepted, which no file may hold. Raises
    InvalidInput (`unknown-kind`) if its kind is not known.
    """
    body = stored["body"]
    api_version, name = body.get("apiVersion"), body.get("kind")
    group = api_version.partition("/")[0] if isinstance(api_version, str) else ""
    kind = BY_NAME.get(f"{group}/{name}")
    if kind is None or kind.api_version != api_version:
        raise InvalidInput(
            f"kind {show(name)} of {show(api_version)} is not known",
            code="unknown-kind",
            hint=f"known kinds: {', '.join(k.short for k in PUBLIC)}",
        )
    lines = dict(stored.get("lines") or {})
    file = str(stored.get("file") or "")
    return Document(kind.api_version, kind.name, _key(kind, body), body, lines, file)


def _unfolded(raw: RawDocument, out: Findings) -> Iterator[_Raw]:
    """The document itself, or the items of a `kind: List` or of what `kumactl get` prints."""
    body = raw.body
    if not isinstance(body, dict):
        out.error(
            "not-a-resource",
            f"a document is a mapping with apiVersion and kind, not {_kind_of(body)}",
            hint="write apiVersion, kind, metadata and spec, or Kuma's type and name",
        )
        return
    kubernetes = body.get("kind") == "List" and body.get("apiVersion") == "v1"
    if not kubernetes and not ("items" in body and body.keys() <= _KUMA_LIST):
        yield _Raw(body, raw.lines)
        return
    for name in body:
        if name not in _KUBERNETES_LIST | _KUMA_LIST:
            out.error("unknown-field", f"the field {show(name)} is not known", child("", name))
    items = body.get("items")
    if not isinstance(items, list):
        out.error("wrong-type", "a List has a list of items", "/items" if "items" in body else "")
        return
    shares = _lines_of_items(raw.lines, len(items))
    for index, item in enumerate(items):
        base = child("/items", index)
        if isinstance(item, dict):
            yield _Raw(item, shares[index], base)
        else:
            out.error("not-a-resource", f"an item is a mapping, not {_kind_of(item)}", base)


def _lines_of_items(lines: Lines, count: int) -> list[dict[str, int]]:
    """The lines of each item of a List, relative to the item; one pass."""
    shares: list[dict[str, int]] = [{} for _ in range(count)]
    for path, line in lines.items():
        if path.startswith("/items/"):
            index, separator, rest = path[len("/items/") :].partition("/")
            shares[int(index)][separator + rest] = line
    return shares


def _kind_of(value: JsonValue) -> str:
    return "a list" if isinstance(value, list) else f"the value {show(value)}"


def _document(raw: _Raw, file: str, out: Findings) -> Document | None:
    """Find the kind and bring the body into canonical shape; None if there is no such kind."""
    flat = "type" in raw.body and "kind" not in raw.body and "apiVersion" not in raw.body
    kind = _flat_kind(raw, out) if flat else _kind(raw, out)
    if kind is None:
        return None
    moved = _Canonical(kind, raw, flat=flat)
    body = moved.body()
    lines = moved.lines()
    shown = tuple((path, raw.base + place) for path, place in moved.shown())
    findings = Findings(file, lines, shown)
    _check_mesh(kind, raw.body, body, findings)
    problems = findings.diagnostics
    key = _key(kind, body)
    return Document(kind.api_version, kind.name, key, body, lines, file, shown, problems)


def _kind(raw: _Raw, out: Findings) -> Kind | None:
    """The kind of a Kubernetes-shaped document."""
    name, version = raw.body.get("kind"), raw.body.get("apiVersion")
    for field, value in (("apiVersion", version), ("kind", name)):
        if not isinstance(value, str) or not value:
            message = f"the field {field} is missing"
            if field in raw.body:
                message = f"the field {field} must be a text, not {show(value)}"
            hint = "write apiVersion and kind, or Kuma's type"
            out.error("missing-field", message, raw.base, hint)
            return None
    group = str(version).partition("/")[0] if "/" in str(version) else ""
    kind = BY_NAME.get(f"{group}/{name}")
    if kind is not None and not kind.internal:
        if kind.api_version == version:
            return kind
        out.error(
            "unknown-version",
            f"{kind.short} has no version {show(version)}",
            f"{raw.base}/apiVersion",
            f"write {kind.api_version}",
        )
        return None
    _refuse_kind(str(name), group, raw.base, out)
    return None


def _refuse_kind(name: str, group: str, base: str, out: Findings) -> None:
    later = group in LATER or (group == "" and name in LATER_CORE_KINDS)
    if later:
        what = LATER.get(group, name)
        out.error(
            "later-kind",
            f"{show(name)} is not supported yet: it would not be enforced",
            f"{base}/kind",
            f"a later version reads {what}; leave the document out",
        )
    elif group in {"kuma.io", "limen.dev"} and name in KUMA_KINDS:
        out.error(
            "refused-kind",
            f"Kuma's {name} is not supported",
            f"{base}/kind",
            f"known kinds: {', '.join(k.short for k in PUBLIC)}",
        )
    else:
        known = [k.short for k in PUBLIC]
        guess = suggestion(name, tuple(known))
        if not guess.startswith("did"):
            guess = "known kinds: " + ", ".join(f"{k.short} ({k.api_version})" for k in PUBLIC)
        of = f" of {show(group)}" if group else ""
        out.error("unknown-kind", f"the kind {show(name)}{of} is not known", f"{base}/kind", guess)


def _flat_kind(raw: _Raw, out: Findings) -> Kind | None:
    """The kind of a document in Kuma's `type:` shape."""
    name = raw.body.get("type")
    kind = BY_NAME.get(f"kuma.io/{name}") if isinstance(name, str) else None
    if kind is not None:
        return kind
    path = f"{raw.base}/type"
    if isinstance(name, str) and name in KUMA_KINDS:
        known = ", ".join(k.short for k in PUBLIC)
        out.error("refused-kind", f"Kuma's {name} is not supported", path, f"known kinds: {known}")
        return None
    flats = tuple(k.short for k in PUBLIC if k.flat is not Flat.NONE)
    hint = suggestion(name, flats) if isinstance(name, str) else f"known: {', '.join(flats)}"
    out.error("unknown-kind", f"the type {show(name)} is not known", path, hint)
    return None


class _Canonical:
    """Moves the fields of one document into canonical shape, and their lines with them."""

    def __init__(self, kind: Kind, raw: _Raw, *, flat: bool) -> None:
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


def _check_mesh(kind: Kind, source: JsonObject, body: JsonObject, out: Findings) -> None:
    """The mesh is a text and is named once, or twice the same."""
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    labels = metadata.get("labels")
    label = labels.get(MESH_LABEL) if isinstance(labels, dict) else None
    legacy = source.get("mesh") if kind.legacy_mesh or "type" in source else None
    if "mesh" in source and kind.legacy_mesh and not isinstance(legacy, str):
        out.error("wrong-type", "mesh must be a text", _MESH_PATH, "name the mesh, in quotes")
        return
    names = {name for name in (label, legacy) if isinstance(name, str)}
    if kind.own_mesh and isinstance(metadata.get("name"), str):
        names.add(str(metadata["name"]))
    if len(names) > 1:
        meshes = " and ".join(sorted(map(show, names)))
        hint = "it belongs to the mesh that it is named as" if kind.own_mesh else "name one mesh"
        out.error("conflicting-mesh", f"the document names two meshes: {meshes}", _MESH_PATH, hint)


def _key(kind: Kind, body: JsonObject) -> ResourceKey:
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
