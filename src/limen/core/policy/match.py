"""How one string is compared. The same four ways in every dialect and in Envoy's StringMatcher."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache


class How(Enum):
    """Comparison. `PATH_PREFIX` is a prefix that ends at a `/` or at the end of the text."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    PATH_PREFIX = "path-prefix"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """`value` against a text; `PRESENT` ignores `value` and needs a non-empty text."""

    how: How
    value: str = ""
    ignore_case: bool = False

    def matches(self, text: str) -> bool:
        """Whether `text` satisfies this matcher."""
        value = self.value
        if self.ignore_case:
            text, value = text.lower(), value.lower()
        match self.how:
            case How.EXACT:
                return text == value
            case How.PREFIX:
                return text.startswith(value)
            case How.SUFFIX:
                return text.endswith(value)
            case How.PATH_PREFIX:
                return text == value or text.startswith(value.rstrip("/") + "/")
            case How.PRESENT:
                return bool(text)

    def __str__(self) -> str:
        match self.how:
            case How.EXACT:
                return self.value
            case How.PREFIX:
                return f"{self.value}*"
            case How.SUFFIX:
                return f"*{self.value}"
            case How.PATH_PREFIX:
                return f"{self.value.rstrip('/')}/**"
            case How.PRESENT:
                return "*"


@lru_cache(maxsize=4096)
def template_pattern(template: str) -> re.Pattern[str]:
    """A path template as an expression for the whole path (never for Envoy, see `core/envoy`).

    `{*}` is one segment, not empty; `{**}` any text, the empty one too. Both take every character
    there is (CVE-2025-46821: `*` in a path went past a template).
    """
    parts = re.split(r"(\{\*\*?\})", template)
    wild = {"{*}": "[^/]+", "{**}": ".*"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts), re.DOTALL)
