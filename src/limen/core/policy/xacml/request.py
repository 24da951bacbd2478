"""A request and a response as values, whatever document they came from or go to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.policy.xacml.decision import OK, Decision, Obligation, PolicyId, Status
from limen.core.policy.xacml.names import STRING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NONE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """A value as written: datatype identifier and text.

    An `xpathExpression` has the category whose content it selects from, and its namespaces.
    """

    text: str
    datatype: str = STRING
    xpath_category: str = ""
    namespaces: Mapping[str, str] = field(default_factory=lambda: _NONE)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A named attribute with one or more values."""

    id: str
    values: tuple[AttributeValue, ...]
    issuer: str = ""
    include_in_result: bool = False


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of one entity (`Attributes` element, JSON `Category`).

    `content` is an XML document that selectors read; `xml_id` is what `MultiRequests` refer to.
    """

    category: str
    attributes: tuple[Attribute, ...] = ()
    content: bytes | None = None
    xml_id: str = ""


@dataclass(frozen=True, slots=True)
class XacmlRequest:
    """A request for one or more decisions.

    `multi_requests`: each names the `xml_id`s of the attributes of one individual request.
    """

    attributes: tuple[Attributes, ...]
    multi_requests: tuple[tuple[str, ...], ...] = ()
    return_policy_ids: bool = False
    combined_decision: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One decision. `obligations` holds advice too; `policies` None: not asked for."""

    decision: Decision
    status: Status = OK
    obligations: tuple[Obligation, ...] = ()
    attributes: tuple[Attributes, ...] = ()
    policies: tuple[PolicyId, ...] | None = None


@dataclass(frozen=True, slots=True)
class XacmlResponse:
    """One result for every individual request, or one for all if they were to be combined."""

    results: tuple[Result, ...]
