"""A policy document as a tree of frozen values: what was written, not yet checked or compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.policy.xacml.decision import Effect
    from limen.core.policy.xacml.request import AttributeValue


@dataclass(frozen=True, slots=True)
class Literal:
    """`AttributeValue`."""

    value: AttributeValue
    line: int = 0


@dataclass(frozen=True, slots=True)
class Designator:
    """`AttributeDesignator`. `issuer` None: any."""

    category: str
    attribute_id: str
    datatype: str
    must_be_present: bool
    issuer: str | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Selector:
    """`AttributeSelector`. `context_selector` None: from the document node."""

    category: str
    path: str
    datatype: str
    must_be_present: bool
    namespaces: Mapping[str, str]
    context_selector: str | None = None
    xpath_version: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Apply:
    """`Apply`: a function with arguments."""

    function: str
    arguments: tuple[Expression, ...]
    line: int = 0


@dataclass(frozen=True, slots=True)
class VariableReference:
    """`VariableReference`."""

    id: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class FunctionReference:
    """`Function`: the first argument of a higher-order function."""

    id: str
    line: int = 0


Expression = Literal | Designator | Selector | Apply | VariableReference | FunctionReference


@dataclass(frozen=True, slots=True)
class Match:
    """`Match`: a function over a literal and every value of a bag."""

    function: str
    literal: Literal
    attribute: Designator | Selector
    line: int = 0


AllOf = tuple[Match, ...]
AnyOf = tuple[AllOf, ...]
Target = tuple[AnyOf, ...]
"""All of the `AnyOf`s must match; none: everything matches."""


@dataclass(frozen=True, slots=True)
class AssignmentExpression:
    """`AttributeAssignmentExpression`."""

    attribute_id: str
    expression: Expression
    category: str = ""
    issuer: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class ObligationExpression:
    """`ObligationExpression` or (`advice`) `AdviceExpression`."""

    id: str
    effect: Effect
    assignments: tuple[AssignmentExpression, ...]
    advice: bool
    line: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """`Rule`."""

    id: str
    effect: Effect
    target: Target
    condition: Expression | None
    obligations: tuple[ObligationExpression, ...]
    description: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Variable:
    """`VariableDefinition`."""

    id: str
    expression: Expression
    line: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """`Policy`."""

    id: str
    version: str
    algorithm: str
    target: Target
    variables: tuple[Variable, ...]
    rules: tuple[Rule, ...]
    obligations: tuple[ObligationExpression, ...]
    description: str = ""
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """`PolicyIdReference` or `PolicySetIdReference` with version patterns ("" : any)."""

    id: str
    policy_set: bool
    version: str = ""
    earliest: str = ""
    latest: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class PolicySet:
    """`PolicySet`."""

    id: str
    version: str
    algorithm: str
    target: Target
    children: tuple[Policy | PolicySet | Reference, ...]
    obligations: tuple[ObligationExpression, ...]
    description: str = ""
    file: str = ""
    line: int = 0
