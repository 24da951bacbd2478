"""From YAML values to `Document`s: Lists unfolded, both of Kuma's shapes brought into one.

The canonical body has `apiVersion`, `kind`, `metadata` and `spec`; what a server made (`status`,
`metadata.uid` ...) is left out, and the mesh stands in the label `kuma.io/mesh`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from limen.core.dialects.canonical import Canonical, Raw, check_mesh, key_of
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
    LATER_LIMEN_KINDS,
    PUBLIC,
    Flat,
    Kind,
)
from limen.core.dialects.schema import suggestion
from limen.core.dialects.yaml_reader import RawDocument, read_yaml
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.model.diagnostic import Diagnostic

Lines = Mapping[str, int]
_KUBERNETES_LIST = frozenset({"apiVersion", "kind", "metadata", "items"})
_KUMA_LIST = frozenset({"items", "next", "total"})


def parse_documents(
    data: bytes, file: str = "", known: Mapping[str, Kind] = BY_NAME
) -> tuple[tuple[Document, ...], tuple[Diagnostic, ...]]:
    """The documents of one file that have a `known` kind, and all findings so far.

    Bodies are not judged yet (`validate`). Never raises for any `data`.
    """
    raws, diagnostics = read_yaml(data, file)
    found = list(diagnostics)
    documents: list[Document] = []
    for raw in raws:
        findings = Findings(file, raw.lines)
        for item in _unfolded(raw, findings):
            document = _document(item, file, findings, known)
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
    kind = BY_NAME.get(f"{_group(api_version)}/{name}")
    if kind is None or kind.api_version != api_version:
        raise InvalidInput(
            f"kind {show(name)} of {show(api_version)} is not known",
            code="unknown-kind",
            hint=f"known kinds: {', '.join(k.short for k in PUBLIC)}",
        )
    lines = dict(stored.get("lines") or {})
    file = str(stored.get("file") or "")
    return Document(kind.api_version, kind.name, key_of(kind, body), body, lines, file)


def _unfolded(raw: RawDocument, out: Findings) -> Iterator[Raw]:
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
        yield Raw(body, raw.lines)
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
            yield Raw(item, shares[index], base)
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


def _document(raw: Raw, file: str, out: Findings, known: Mapping[str, Kind]) -> Document | None:
    """Find the kind and bring the body into canonical shape; None if there is no such kind."""
    flat = "type" in raw.body and "kind" not in raw.body and "apiVersion" not in raw.body
    kind = _flat_kind(raw, out) if flat else _kind(raw, out, known)
    if kind is None:
        return None
    moved = Canonical(kind, raw, flat=flat)
    body = moved.body()
    lines = moved.lines()
    shown = tuple((path, raw.base + place) for path, place in moved.shown())
    findings = Findings(file, lines, shown)
    check_mesh(kind, raw.body, body, findings)
    problems = findings.diagnostics
    key = key_of(kind, body)
    return Document(kind.api_version, kind.name, key, body, lines, file, shown, problems)


def _kind(raw: Raw, out: Findings, known: Mapping[str, Kind]) -> Kind | None:
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
    group = _group(version)
    kind = known.get(f"{group}/{name}")
    if kind is not None and not kind.internal:
        if version in kind.versions:
            return kind
        out.error(
            "unknown-version",
            f"{kind.short} has no version {show(version)}",
            f"{raw.base}/apiVersion",
            f"write {' or '.join(kind.versions)}",
        )
        return None
    _refuse_kind(str(name), group, raw.base, out)
    return None


def _group(version: JsonValue) -> str:
    """`kuma.io` of `kuma.io/v1alpha1`; the core group (`v1`) is empty."""
    return str(version).rpartition("/")[0]


def _refuse_kind(name: str, group: str, base: str, out: Findings) -> None:
    own = {"": LATER_CORE_KINDS, "limen.dev": LATER_LIMEN_KINDS}.get(group, frozenset())
    later = group in LATER or name in own
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


def _flat_kind(raw: Raw, out: Findings) -> Kind | None:
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
