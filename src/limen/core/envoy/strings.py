"""`StringMatch` to Envoy's StringMatcher."""

from __future__ import annotations

from typing import assert_never

from envoy.type.matcher.v3 import string_pb2

from limen.core.policy.match import How, StringMatch


def is_any_text(match: StringMatch) -> bool:
    """Whether `match` holds for every text, the empty one too. Envoy has no matcher for that."""
    return match.how in (How.PREFIX, How.SUFFIX) and not match.value


def to_string_matchers(match: StringMatch) -> tuple[string_pb2.StringMatcher, ...]:
    """Matchers of which at least one must match. `PRESENT` and `is_any_text` have none.

    Each caller says those its way. Raises ValueError for `PRESENT`.
    """
    value, fold = match.value, match.ignore_case
    match match.how:
        case How.EXACT:
            return (string_pb2.StringMatcher(exact=value, ignore_case=fold),)
        case How.PREFIX:
            return (string_pb2.StringMatcher(prefix=value, ignore_case=fold),)
        case How.SUFFIX:
            return (string_pb2.StringMatcher(suffix=value, ignore_case=fold),)
        case How.PATH_PREFIX:
            return (
                string_pb2.StringMatcher(exact=value, ignore_case=fold),
                string_pb2.StringMatcher(prefix=value.rstrip("/") + "/", ignore_case=fold),
            )
        case How.PRESENT:
            raise ValueError("PRESENT is no comparison of strings")
    assert_never(match.how)
