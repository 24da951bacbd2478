"""What evaluation yields inside the engine: extended decisions, and outcomes with obligations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from limen.core.policy.xacml.names import STATUS_OK

if TYPE_CHECKING:
    from limen.core.policy.xacml.errors import EvaluationError, MissingAttribute


class Effect(Enum):
    """Of a rule, and when an obligation is due."""

    PERMIT = "Permit"
    DENY = "Deny"


class Extended(Enum):
    """A decision with the extended Indeterminate (core, 7.10)."""

    PERMIT = "Permit"
    DENY = "Deny"
    NOT_APPLICABLE = "NotApplicable"
    INDETERMINATE_P = "Indeterminate{P}"
    INDETERMINATE_D = "Indeterminate{D}"
    INDETERMINATE_DP = "Indeterminate{DP}"


class Decision(Enum):
    """What a response says."""

    PERMIT = "Permit"
    DENY = "Deny"
    INDETERMINATE = "Indeterminate"
    NOT_APPLICABLE = "NotApplicable"


@dataclass(frozen=True, slots=True)
class Status:
    """Status code, message for people, the attributes that were missing."""

    code: str = STATUS_OK
    message: str = ""
    missing: tuple[MissingAttribute, ...] = ()


OK = Status()


def status_of(error: EvaluationError) -> Status:
    """The status that tells of `error`."""
    return Status(error.code, error.message, error.missing)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attribute of an obligation or advice. `value` is text; empty `category`: none."""

    attribute_id: str
    datatype: str
    value: str
    category: str = ""
    issuer: str = ""
    xpath_category: str = ""


@dataclass(frozen=True, slots=True)
class Obligation:
    """What the enforcement point must do (obligation) or may know (advice)."""

    id: str
    assignments: tuple[Assignment, ...]
    advice: bool = False


@dataclass(frozen=True, slots=True)
class PolicyId:
    """A policy or policy set that applied."""

    id: str
    version: str
    policy_set: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule, policy or policy set decides; `status` says why it is Indeterminate."""

    decision: Extended
    status: Status = OK
    obligations: tuple[Obligation, ...] = ()


NOT_APPLICABLE = Outcome(Extended.NOT_APPLICABLE)
PERMIT = Outcome(Extended.PERMIT)
DENY = Outcome(Extended.DENY)
