"""Secrets that were refused while an older one of that name goes on serving.

Kept in memory, until one is accepted: an operator sees in `get` and `check` that what serves is not
what was sent last. Only codes and messages, never what a Secret held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.dialects.yaml_reader import read_yaml
from limen.core.model.diagnostic import Severity
from limen.core.model.names import DEFAULT_NAMESPACE
from limen.core.model.resource import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    from limen.core.dialects.document import JsonValue
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import ResourceKey
    from limen.core.model.snapshot import Snapshot

_MOST = 200
"""Characters of a reason."""


def note_refused(
    known: MutableMapping[ResourceKey, str],
    snapshot: Snapshot,
    files: Iterable[tuple[str, str]],
    findings: Iterable[Diagnostic],
) -> None:
    """Of each Secret in `files` (name, text) that exists already, the first error about it."""
    errors = [f for f in findings if f.severity is Severity.ERROR]
    stored = {(k.namespace, k.name): k for r in snapshot.of_kind(SECRET) for k in (r.key,)}
    if not stored or not errors:
        return
    for name, text in files:
        documents, _ = read_yaml(text.encode("utf-8", "surrogatepass"), name)
        starts = [document.lines.get("", 0) for document in documents]
        ends = [*starts, 1 << 31][1:]  # a text that cannot be read has no documents
        for document, start, after in zip(documents, starts, ends, strict=True):
            key = stored.get(_name(document.body))
            about = [e for e in errors if e.file == name and start <= e.line < after]
            if key is not None and about:
                known[key] = f"{about[0].code}: {about[0].message}"[:_MOST]


def _name(body: JsonValue) -> tuple[str, str]:
    """Namespace and name of a Secret; two empty texts for everything else."""
    metadata = _map(body).get("metadata")
    if _map(body).get("kind") != SECRET.rpartition("/")[2]:
        return "", ""
    said = _map(metadata)
    return str(said.get("namespace") or DEFAULT_NAMESPACE), str(said.get("name") or "")


def _map(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}
