"""Regular expressions of XML Schema and XPath: what matches, what is refused, what it costs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.xacml.builders import apply, designator, literal, subject, truth

from limen.core.policy.xacml.regex.automaton import Regex


def found(pattern: str, text: str) -> bool:
    return Regex(pattern).search(text, lambda _: None)


MATCHES = [
    ("", "", True),
    ("", "a", True),
    ("a", "bab", True),
    ("^a", "ba", False),
    ("a$", "ab", False),
    ("^$", "", True),
    ("^$", "a", False),
    ("^a*$", "aaa", True),
    ("a|b", "xb", True),
    ("^(a|b)+$", "abba", True),
    ("^(?:ab){2}$", "abab", True),
    ("^a{2,3}$", "aaaa", False),
    ("^a{2,}$", "aaaa", True),
    ("^a{0}$", "", True),
    ("^a?b$", "b", True),
    ("^a*?b$", "aab", True),
    ("^.$", "\n", False),
    ("^.$", "ä", True),
    (r"^\d+$", "123", True),
    (r"^\d$", "٣", True),
    (r"^\D$", "a", True),
    (r"^\s$", "\t", True),
    (r"^\S$", "\t", False),
    (r"^\w+$", "aß9", True),
    (r"^\w$", "-", False),
    (r"^\i\c*$", "ns:name-1.x", True),
    (r"^\i$", "1", False),
    (r"^\p{Lu}\P{Lu}$", "Ab", True),
    (r"^\p{L}$", "9", False),
    (r"^\p{IsBasicLatin}+$", "abc", True),
    (r"^\p{IsBasicLatin}+$", "abä", False),
    (r"^\p{IsGreek}$", "λ", True),
    (r"^\p{IsCherokee}\p{IsKhmer}$", "Ꭰក", True),
    (r"^\P{IsMathematicalOperators}$", "∀", False),
    (r"^[a-c]+$", "abc", True),
    (r"^[^a-c]$", "b", False),
    (r"^[a-z-[aeiou]]+$", "xyz", True),
    (r"^[a-z-[aeiou]]+$", "xay", False),
    (r"^[-a]$", "-", True),
    (r"^[a-]$", "-", True),
    (r"^[\d\-]$", "-", True),
    (r"^[.]$", "a", False),
    (r"^\.\^\$\(\)\[\]\{\}\?\*\+\|\\\-$", ".^$()[]{}?*+|\\-", True),
    (r"^\n\r\t$", "\n\r\t", True),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), MATCHES)
def test_matches(pattern: str, text: str, *, expected: bool):
    assert found(pattern, text) is expected


REFUSED = [
    "(",
    ")",
    "a)",
    "[",
    "[]",
    "[z-a]",
    "a{2,1}",
    "a{",
    "a**",
    "*",
    "+a",
    "\\",
    "\\q",
    "\\1",
    "(a)\\1",
    "\\p{Nope}",
    "\\p{IsNope}",
    "\\pL",
    "[a-z-[aeiou]x]",
    "a{99999}",
    "(" * 60 + ")" * 60,
    "a{1000}{1000}",
    "(a{1000}){1000}",
    "x" * 5000,
    "{",
    "}",
    "]",
]


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_no_regular_expression_is_refused(pattern: str):
    with pytest.raises(ValueError, match=r"."):
        Regex(pattern)


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "(.*)*b", "^(a?){40}a{40}$"]
)
def test_catastrophic_expressions_take_a_bounded_number_of_steps(pattern: str):
    spent = 0

    def spend(steps: int) -> None:
        nonlocal spent
        spent += steps

    Regex(pattern).search("a" * 2000 + "!", spend)
    assert spent < 2002 * 400


def test_expensive_search_ends_as_indeterminate():
    pattern = literal("string", "(a|b|c){0,150}z")
    call = apply("string-regexp-match", pattern, apply("string-one-and-only", designator("t")))
    text = "".join("abc"[(i * i + i // 7) % 3] for i in range(50_000))
    assert truth(call, subject(t=text)) == "processing-error"


ATOMS = st.sampled_from(["a", "b", "c", "[ab]", "[^a]", ".", "(?:ab)", "(?:a|b)", "^", "$"])
PIECES = st.tuples(ATOMS, st.sampled_from(["", "*", "+", "?", "{2}", "{1,2}"])).map(
    lambda pair: pair[0] if pair[0] in "^$" else "".join(pair)
)
PATTERNS = st.lists(st.lists(PIECES, max_size=4).map("".join), min_size=1, max_size=3).map("|".join)


@given(PATTERNS, st.text("abc", max_size=7))
def test_agrees_with_python_where_the_languages_agree(pattern: str, text: str):
    python = pattern.replace("$", r"\Z")
    assert found(pattern, text) is (re.search(python, text) is not None)


@given(st.text(max_size=30), st.text(max_size=10))
def test_any_text_is_an_expression_or_a_value_error(pattern: str, text: str):
    try:
        regex = Regex(pattern)
    except ValueError:
        return
    regex.search(text, lambda _: None)
