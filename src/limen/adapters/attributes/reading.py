"""AttributeSources of files, as a book; every finding at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.adapters.attributes.places import Places
from limen.adapters.attributes.point import InformationPoint, needs_extra
from limen.adapters.policy_files import read_bounded
from limen.core.dialects.sources_file import read_sources
from limen.core.dialects.yaml_reader import MAX_BYTES
from limen.core.model.diagnostic import Diagnostic, Severity, has_errors
from limen.core.policy.sources import SourceBook
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from limen.core.model.attribute_source import AttributeSource


def read_book(files: Sequence[Path]) -> SourceBook:
    """The sources of all `files`. Raises `InvalidInput`."""
    found: list[AttributeSource] = []
    findings: list[Diagnostic] = []
    for file in files:
        sources, said = read_sources(read_bounded(file, MAX_BYTES), str(file))
        found += sources
        findings += said
    for source in found:
        missing = needs_extra(source)
        if missing:
            message = f"the source {source} cannot be asked here"
            findings.append(Diagnostic(Severity.ERROR, "source-extra", message, hint=missing))
    if has_errors(findings):
        raise InvalidInput(
            "the attribute sources cannot be used", code="source-invalid", diagnostics=findings
        )
    return SourceBook(found)


def open_point(files: Sequence[Path]) -> InformationPoint | None:
    """The information point of `files`; None if there are none. Relative paths begin at the first.

    Raises `InvalidInput`.
    """
    if not files:
        return None
    return InformationPoint(read_book(files), Places(files[0].resolve().parent))
