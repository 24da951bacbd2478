"""Documents from files, directories and standard input: the loader of every verb that takes `-f`.

Reading stops at the size that `core/dialects` accepts; what is wrong inside a file is a diagnostic,
a path that cannot be read raises.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limen.core.dialects import MAX_BYTES, duplicates, read_resources
from limen.core.model.diagnostic import Diagnostic, Severity, has_errors
from limen.core.model.snapshot import Snapshot
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limen.core.dialects import Document
    from limen.core.model.resource import Resource

SUFFIXES = (".json", ".yaml", ".yml")
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the given paths hold.

    `resources` were understood in full; `documents` are the same, as written, in the same order;
    `diagnostics` are all findings about all files, in order. `files` were read.
    """

    resources: tuple[Resource, ...] = ()
    documents: tuple[Document, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def snapshot(self) -> Snapshot:
        """The resources as a snapshot at revision 0."""
        return Snapshot({resource.key: resource for resource in self.resources})

    def require_valid(self) -> None:
        """Raise InvalidInput (`invalid-documents`) with all diagnostics if any is an error."""
        if has_errors(self.diagnostics):
            errors = sum(d.severity is Severity.ERROR for d in self.diagnostics)
            raise InvalidInput(
                f"{errors} error{'s' * (errors != 1)} in the documents; nothing was done",
                code="invalid-documents",
                hint="`limen validate -f PATH` shows them again",
                diagnostics=self.diagnostics,
            )


def load_files(paths: Iterable[str | Path]) -> Loaded:
    """Read files, directories (recursively `*.yaml *.yml *.json`, sorted) and `-` (stdin).

    Hidden directories are not entered. A file named twice is read once. Raises InvalidInput
    (`unreadable`) for a path that is missing or unreadable and for a directory without documents.
    """
    resources: list[Resource] = []
    documents: list[Document] = []
    diagnostics: list[Diagnostic] = []
    files = expand(paths)
    for file in files:
        found = read_resources(read_file(file), "<stdin>" if file == STDIN else file)
        resources.extend(found[0])
        documents.extend(found[1])
        diagnostics.extend(found[2])
    diagnostics.extend(duplicates(resources))
    return Loaded(tuple(resources), tuple(documents), tuple(diagnostics), files)


def expand(paths: Iterable[str | Path]) -> tuple[str, ...]:
    """The files that `paths` stand for, each once. Raises as `load_files`."""
    return tuple(dict.fromkeys(file for path in paths for file in _expand(str(path))))


def _expand(path: str) -> list[str]:
    """The files that `path` stands for."""
    if path == STDIN:
        return [path]
    place = Path(path)
    try:
        if not place.is_dir():
            return [path]
        found = sorted(str(file) for file in _walk(place))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not found:
        raise InvalidInput(
            f"{path} has no *.yaml, *.yml or *.json file",
            code="unreadable",
            hint="name the file, or the directory that has the documents",
        )
    return found


def _walk(directory: Path) -> Iterator[Path]:
    for entry in directory.iterdir():
        if entry.is_dir():
            if not entry.name.startswith(".") and not entry.is_symlink():
                yield from _walk(entry)
        elif entry.suffix in SUFFIXES:
            if entry.exists() and not entry.is_file():  # a pipe would be waited for
                raise InvalidInput(
                    f"{entry} is not a file",
                    code="unreadable",
                    hint="move it away; a pipe is read only if it is named with -f itself",
                )
            yield entry


def read_file(file: str) -> bytes:
    """At most one byte more than is accepted, so that too large a file is known."""
    try:
        if file == STDIN:
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with Path(file).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None


def _unreadable(path: str, error: Exception) -> InvalidInput:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidInput(
        f"cannot read {path}: {reason}", code="unreadable", hint="check the path given with -f"
    )
