"""Regular expressions of routes: what is accepted is read alike, what is not is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limen.core.dialects.gateway_regex import MAX_LENGTH, check_regex
from limen.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "captures"),
    [
        ("/a.*", 0),
        ("^(.*?;)?(user=jason)(;.*)?$", 3),
        (r"\d+$", 0),
        ("(?i)/ABC", 0),
        ("(?:a|b)(c)", 1),
        ("[a-z0-9_.-]+", 0),
        ("[^/]+", 0),
        (r"[\w-]+@\S{1,10}", 0),
        ("(a{100}){10}", 1),
        (r"\{\}\[\]\(\)\\", 0),
        ("|a", 0),
        ("[-a]{2,}?", 0),
    ],
)
def test_expression_is_accepted(text: str, captures: int) -> None:
    assert check_regex(text) == captures
    assert re.compile(text, re.ASCII).groups == captures


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has 1 to 1024 characters, not 0"),
        ("a" * (MAX_LENGTH + 1), "has 1 to 1024 characters, not 1025"),
        ("(?=a)", "there is a (? other than (?:"),
        ("(?<!a)b", "there is a (? other than (?:"),
        ("(?P<n>a)", "there is a (? other than (?:"),
        ("a(?i)b", "there is a (? other than (?:"),
        (r"(a)\1", "an escape that not every reader knows"),
        (r"\bword", "an escape that not every reader knows"),
        (r"\pN", "an escape that not every reader knows"),
        ("a\\", "an escape that not every reader knows"),
        ("[a\\", "an escape that not every reader knows"),
        ("a++", "+ repeats nothing"),
        ("*a", "* repeats nothing"),
        ("^*", "* repeats nothing"),
        ("a{2}{3}", "{ repeats nothing"),
        ("a{,3}", "{ begins no repetition"),
        ("a{01}", "{ begins no repetition"),
        ("a{3,2}", "the most is less than the least"),
        ("a{1001}", "more than 1000 repetitions"),
        ("(a{100}){11}", "more than 1000 repetitions"),
        ("((a{20}){20}){20}", "more than 1000 repetitions"),
        (".{800}", "too large for a proxy"),
        ("(a", "a ( is not closed"),
        ("a)", ") has no beginning"),
        ("[a", "a [ is not closed"),
        ("[]", "']' stands in a class"),
        ("[]a]", "']' stands in a class"),
        ("[[:alpha:]]", "'[' stands in a class"),
        ("[z-a]", "a range ends before it begins"),
        (r"[\d-z]", "a range begins with a class"),
        (r"[a-\d]", "a range ends before it begins"),
        ("[a&&b]", "readers differ about this class"),
        ("a]", "] has no beginning"),
        ("a}", "} has no beginning"),
        ("ü", "not ASCII"),
        ("[ü]", "stands in a class"),
        ("a\nb", "not ASCII"),
        ("(" * 60 + ")" * 60, "nested too deeply"),
    ],
)
def test_expression_is_refused(text: str, what: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(what)) as error:
        check_regex(text)
    assert error.value.code == "bad-regex"


PIECES = st.sampled_from(
    [*"ab01/-^$.|()[]{}*+?\\,", "(?:", "(?i)", "[a-z]", "[^/]", r"\d", r"\.", "{2,3}", "{0}", "a?"]
)


@settings(max_examples=1500)
@given(st.lists(PIECES, max_size=24).map("".join))
def test_accepted_expression_is_one_of_pythons_too(text: str) -> None:
    try:
        captures = check_regex(text)
    except InvalidInput:
        return
    assert re.compile(text, re.ASCII).groups == captures
