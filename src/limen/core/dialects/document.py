"""`Document`: one Kubernetes-shaped resource as it was written, before it is understood.

Bodies are plain JSON values in canonical Kubernetes shape (`apiVersion`, `kind`, `metadata`,
`spec`), whatever shape they arrived in. What a server stores of a document is `stored_form`;
`document_from_stored` reads it back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.model.resource import Origin, ResourceKey

if TYPE_CHECKING:
    from collections.abc import Mapping

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]

MAX_FINDINGS = 200
"""Findings kept per file; one more says that there were more."""


def child(path: str, key: str | int) -> str:
    """The path of `key` inside `path`, a JSON pointer (RFC 6901): `/tags/kuma.io~1service`."""
    return f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"


@dataclass(frozen=True, slots=True)
class Document:
    """One resource as written. `kind` is `GROUP/Kind` (`core/model/resource.py`).

    `lines` gives the 1-based line of each path of `body`. `shown` rewrites a path of `body` to the
    path in the file, for flat documents and items of a List: pairs (prefix, replacement), the first
    that fits is used. `problems` were found when the body was brought into shape. `key.mesh` of a
    Mesh or MeshSettings is its own name, and its namespace is `default`.
    """

    api_version: str
    kind: str
    key: ResourceKey
    body: JsonObject = field(repr=False)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)
    file: str = ""
    shown: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    problems: tuple[Diagnostic, ...] = field(default=(), compare=False)

    @property
    def origin(self) -> Origin:
        """Where it was written, for the resource made of it."""
        return Origin(self.file, self.lines)


def shown_path(path: str, shown: tuple[tuple[str, str], ...]) -> str:
    """`path` of a canonical body as it stands in the file."""
    for prefix, replacement in shown:
        if path == prefix or path.startswith(f"{prefix}/"):
            path = replacement + path[len(prefix) :]
            break
    return path if path.isprintable() else path.encode("unicode_escape").decode("ascii")


class Findings:
    """Collects diagnostics about one document (or one file) and knows its lines."""

    def __init__(
        self,
        file: str = "",
        lines: Mapping[str, int] | None = None,
        shown: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._origin = Origin(file, lines or {})
        self._shown = shown
        self._found: list[Diagnostic] = []
        self.errors = 0

    def error(self, code: str, message: str, path: str = "", hint: str = "", line: int = 0) -> None:
        """Record a finding that refuses the document."""
        self.errors += 1
        self._add(Severity.ERROR, code, message, path, hint, line)

    def warn(self, code: str, message: str, path: str = "", hint: str = "") -> None:
        """Record a finding that does not refuse it."""
        self._add(Severity.WARNING, code, message, path, hint, 0)

    def _add(  # noqa: PLR0917 - private, called twice above
        self, severity: Severity, code: str, message: str, path: str, hint: str, line: int
    ) -> None:
        if len(self._found) > MAX_FINDINGS:
            return
        if len(self._found) == MAX_FINDINGS:
            severity, code, hint = Severity.ERROR, "too-many-findings", "mend these first"
            message = f"there are more than {MAX_FINDINGS} findings; the rest is not shown"
        line = line or self._origin.line(path)
        where = shown_path(path, self._shown)
        self._found.append(
            Diagnostic(severity, code, message, self._origin.file, line, where, hint)
        )

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Everything recorded, in order."""
        return tuple(self._found)


def show(value: object, limit: int = 60) -> str:
    """`value` for a message: ASCII, quoted, cut short. Safe for logs and terminals."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = str(value)
    text = text if len(text) <= limit else text[:limit] + "…"
    return ascii(text) if isinstance(value, str) else text
