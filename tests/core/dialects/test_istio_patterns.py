"""Patterns: what covers what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from limen.core.dialects.istio_patterns import Wild, parse_pattern

_TEXT = st.text("ab", max_size=4)
_PATTERNS = st.one_of(
    _TEXT.filter(bool), _TEXT.map("{}*".format), _TEXT.map("*{}".format), st.just("*")
).map(parse_pattern)


def matches(pattern: object, text: str) -> bool:
    wild, value = pattern.wild, pattern.text
    return {
        Wild.NONE: text == value,
        Wild.END: text.startswith(value),
        Wild.START: text.endswith(value),
        Wild.ALONE: bool(text),
    }[wild]


@given(_PATTERNS, _PATTERNS, _TEXT)
def test_a_pattern_that_covers_another_matches_all_that_it_matches(
    wide: object, narrow: object, text: str
) -> None:
    if wide.covers(narrow) and matches(narrow, text) and text:
        assert matches(wide, text)
