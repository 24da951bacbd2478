"""One conformance case: load, judge, compare. What is right stands in the case, not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.policy.xacml.decision import Decision
from limen.core.policy.xacml.differences import differences
from limen.core.policy.xacml.engine import load_policies
from limen.core.policy.xacml.errors import PolicyFault
from limen.core.policy.xacml.limits import MAX_POLICY_BYTES
from limen.core.policy.xacml.names import NAMESPACE, STATUS_SYNTAX_ERROR
from limen.core.policy.xacml.safexml import parse_xml
from limen.core.policy.xacml.xml_request import attributes_element, read_xml_request
from limen.core.policy.xacml.xml_response import read_xml_response
from limen.errors import InvalidInput

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from limen.core.policy.xacml.context import Context, Finder
    from limen.core.policy.xacml.engine import Engine
    from limen.core.policy.xacml.request import AttributeValue


@dataclass(frozen=True, slots=True)
class CaseDocuments:
    """The documents of a case. `policies[0]` is the root.

    No `request`: the policies must be refused. No `response`: the request must be.
    `attributes` supplies what the request lacks.
    """

    policies: Sequence[bytes]
    request: bytes | None = None
    response: bytes | None = None
    attributes: bytes | None = None


def judge_case(case: CaseDocuments, now: dt.datetime) -> list[str]:
    """How the engine's answer differs from what the case expects; none: it passes."""
    try:
        engine = load_policies(case.policies, _root_id(case.policies))
    except InvalidInput as error:
        if case.request is None:
            return []
        return [f"policy refused: {error.message}"]
    if case.request is None:
        return ["policy: it should be refused, and was loaded"]
    try:
        return _judge(engine, case.request, case, now)
    except InvalidInput as error:
        return [error.message]


def _judge(engine: Engine, document: bytes, case: CaseDocuments, now: dt.datetime) -> list[str]:
    try:
        request = read_xml_request(document)
    except InvalidInput as error:
        return [] if case.response is None else [f"request refused: {error.message}"]
    finder = None if case.attributes is None else _finder(case.attributes)
    actual = engine.evaluate(request, now, finder)
    if case.response is None:
        refused = all(
            result.decision is Decision.INDETERMINATE and result.status.code == STATUS_SYNTAX_ERROR
            for result in actual.results
        )
        return [] if refused else ["request: it should be refused, and was judged"]
    return differences(read_xml_response(case.response), actual)


def _root_id(policies: Sequence[bytes]) -> str | None:
    """The identifier of the first document, which is the root."""
    root = parse_xml(policies[0], MAX_POLICY_BYTES, "policy")
    return root.get("PolicyId") or root.get("PolicySetId")


def _finder(document: bytes) -> Finder:
    """Looks attributes up in the `Attributes` elements of a document."""
    root = parse_xml(document, MAX_POLICY_BYTES, "attributes")
    try:
        entities = [attributes_element(e) for e in root.iter(f"{{{NAMESPACE}}}Attributes")]
    except PolicyFault as fault:
        raise InvalidInput(f"attributes: {fault.message}", code=fault.code) from None

    def find(
        category: str, attribute_id: str, datatype: str, issuer: str | None, _: Context
    ) -> list[AttributeValue]:
        return [
            value
            for entity in entities
            if entity.category == category
            for attribute in entity.attributes
            if attribute.id == attribute_id and issuer in (None, attribute.issuer)
            for value in attribute.values
            if value.datatype == datatype
        ]

    return find
