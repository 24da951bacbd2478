"""A finding about a document: where, which stable code, what is wrong, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """`ERROR` refuses the document; `WARNING` does not, unless strictness is asked for."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding.

    `file` and `line` (1-based; 0 when the input has no lines) say where, `path` is the place in the
    document (`/spec/rules/0`), `code` is stable (`core/dialects/codes.py` lists all).
    """

    severity: Severity
    code: str
    message: str
    file: str = ""
    line: int = 0
    path: str = ""
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.file or '-'}:{self.line}: {self.path or '/'}: {self.code}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


def has_errors(diagnostics: tuple[Diagnostic, ...] | list[Diagnostic]) -> bool:
    """Whether any finding refuses the input."""
    return any(d.severity is Severity.ERROR for d in diagnostics)
