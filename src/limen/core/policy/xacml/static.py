"""Static types: every expression of a policy has one, known when the policy is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.policy.xacml.datatypes import DataType


@dataclass(frozen=True, slots=True)
class Type:
    """A value of `element`, or a bag of such values."""

    element: DataType
    bag: bool = False

    def __str__(self) -> str:
        return f"bag of {self.element.name}" if self.bag else self.element.name


def one(element: DataType) -> Type:
    """A single value."""
    return Type(element)


def many(element: DataType) -> Type:
    """A bag."""
    return Type(element, bag=True)
