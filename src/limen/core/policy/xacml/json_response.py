"""A response in the JSON profile (1.1: `Response` is always a list)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import names
from limen.core.policy.xacml.datatypes import BY_URI

if TYPE_CHECKING:
    from limen.core.policy.xacml.decision import Assignment, Obligation, PolicyId, Status
    from limen.core.policy.xacml.request import (
        Attribute,
        Attributes,
        AttributeValue,
        Result,
        XacmlResponse,
    )


def response_data(response: XacmlResponse) -> dict[str, Any]:
    """The document as JSON-able data."""
    return {"Response": [_result(result) for result in response.results]}


def write_json_response(response: XacmlResponse) -> bytes:
    """The document, in UTF-8."""
    text = json.dumps(response_data(response), ensure_ascii=False, indent=2)
    return text.encode("utf-8", "replace")


def _result(result: Result) -> dict[str, Any]:
    data: dict[str, Any] = {"Decision": result.decision.value, "Status": _status(result.status)}
    obligations = [_obligation(o) for o in result.obligations if not o.advice]
    advice = [_obligation(o) for o in result.obligations if o.advice]
    if obligations:
        data["Obligations"] = obligations
    if advice:
        data["AssociatedAdvice"] = advice
    if result.attributes:
        data["Category"] = [_entity(entity) for entity in result.attributes]
    if result.policies:
        data["PolicyIdentifierList"] = _policies(result.policies)
    return data


def _status(status: Status) -> dict[str, Any]:
    data: dict[str, Any] = {"StatusCode": {"Value": status.code}}
    if status.message:
        data["StatusMessage"] = status.message
    if status.missing:
        data["StatusDetail"] = [
            _without_empty(
                Category=missing.category,
                AttributeId=missing.attribute_id,
                DataType=missing.datatype,
                Issuer=missing.issuer,
            )
            for missing in status.missing
        ]
    return data


def _without_empty(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value != ""}


def _obligation(obligation: Obligation) -> dict[str, Any]:
    data: dict[str, Any] = {"Id": obligation.id}
    if obligation.assignments:
        data["AttributeAssignment"] = [_assignment(a) for a in obligation.assignments]
    return data


def _assignment(assignment: Assignment) -> dict[str, Any]:
    return {
        **_without_empty(
            AttributeId=assignment.attribute_id,
            Category=assignment.category,
            Issuer=assignment.issuer,
            DataType=assignment.datatype,
        ),
        "Value": _json_value(assignment.datatype, assignment.value, assignment.xpath_category, {}),
    }


def _entity(entity: Attributes) -> dict[str, Any]:
    return {
        "CategoryId": entity.category,
        "Attribute": [_attribute(attribute) for attribute in entity.attributes],
    }


def _attribute(attribute: Attribute) -> dict[str, Any]:
    values = [_value(value) for value in attribute.values]
    return {
        **_without_empty(
            AttributeId=attribute.id,
            Issuer=attribute.issuer,
            DataType=attribute.values[0].datatype,
        ),
        "Value": values[0] if len(values) == 1 else values,
        "IncludeInResult": attribute.include_in_result,
    }


def _value(value: AttributeValue) -> Any:
    return _json_value(value.datatype, value.text, value.xpath_category, value.namespaces)


def _json_value(datatype: str, text: str, category: str, prefixes: Any) -> Any:
    """Numbers and booleans as JSON has them where it can, else the text."""
    if datatype == names.XPATH_EXPRESSION:
        pairs = [{"Prefix": prefix, "Namespace": uri} for prefix, uri in prefixes.items()]
        data: dict[str, Any] = {"XPathCategory": category, "XPath": text}
        return {**data, "Namespaces": pairs} if pairs else data
    if datatype not in (names.INTEGER, names.BOOLEAN, names.DOUBLE):
        return text
    try:
        value = BY_URI[datatype].read(text)
    except ValueError:
        return text
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):  # noqa: PLR0124 - the test for NaN
        return text
    return value


def _policies(policies: tuple[PolicyId, ...]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for policy in policies:
        name = "PolicySetIdReference" if policy.policy_set else "PolicyIdReference"
        entry = _without_empty(Id=policy.id, Version=policy.version)
        data.setdefault(name, []).append(entry)
    return data
