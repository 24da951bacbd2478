"""What goes wrong while a request is evaluated. Never leaves the engine: it becomes Indeterminate.

EvaluationError    carries a status code of core, B.8, and the attributes that were missing
WorkExhausted      the request costs too much: ends its whole decision, no algorithm sees it
PolicyFault        a policy document is wrong; becomes a `Diagnostic` of an `InvalidInput`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.policy.xacml.names import (
    STATUS_MISSING_ATTRIBUTE,
    STATUS_PROCESSING_ERROR,
    STATUS_SYNTAX_ERROR,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class MissingAttribute:
    """`MissingAttributeDetail` of a status (core, 5.58). `issuer` empty: any issuer."""

    category: str
    attribute_id: str
    datatype: str
    issuer: str = ""


class EvaluationError(Exception):
    """An expression is Indeterminate. `code` is the status code, `missing` what a PEP could add."""

    def __init__(self, code: str, message: str, missing: Sequence[MissingAttribute] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.missing = tuple(missing)


class WorkExhausted(Exception):
    """The budget of a request is used up.

    Not an `EvaluationError`: an algorithm that passes over Indeterminate children would let who
    can make a rule expensive switch that rule off.
    """


def processing_error(message: str) -> EvaluationError:
    """An operation that has no result, as a division by zero."""
    return EvaluationError(STATUS_PROCESSING_ERROR, message)


def syntax_error(message: str) -> EvaluationError:
    """A text that is no value of its datatype."""
    return EvaluationError(STATUS_SYNTAX_ERROR, message)


def missing_attribute(missing: MissingAttribute) -> EvaluationError:
    """An attribute that must be present is not."""
    text = f"attribute {missing.attribute_id} of category {missing.category} is missing"
    return EvaluationError(STATUS_MISSING_ATTRIBUTE, text, (missing,))


class PolicyFault(Exception):
    """A policy cannot be loaded: stable code, what is wrong, the line, what to do."""

    def __init__(self, code: str, message: str, line: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.line = line
        self.hint = hint
