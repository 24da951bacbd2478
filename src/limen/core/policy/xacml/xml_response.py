"""A response to XML and from XML (core, 5.47 to 5.58)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxml import etree

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.policy.xacml import elements as e
from limen.core.policy.xacml.decision import (
    Assignment,
    Decision,
    Obligation,
    PolicyId,
    Status,
)
from limen.core.policy.xacml.errors import MissingAttribute, PolicyFault
from limen.core.policy.xacml.limits import MAX_REQUEST_BYTES
from limen.core.policy.xacml.names import NAMESPACE
from limen.core.policy.xacml.request import Attributes, AttributeValue, Result, XacmlResponse
from limen.core.policy.xacml.safexml import parse_xml
from limen.core.policy.xacml.xml_request import attributes_element
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from lxml.etree import _Element


def write_xml_response(response: XacmlResponse) -> bytes:
    """The document, in UTF-8."""
    root = etree.Element(f"{{{NAMESPACE}}}Response", nsmap={None: NAMESPACE})
    for result in response.results:
        _write_result(_child(root, "Result"), result)
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True, pretty_print=True)


def _child(parent: _Element, name: str, text: str | None = None, **attributes: str) -> _Element:
    given = {key: xml_text(value) for key, value in attributes.items() if value}
    element = etree.SubElement(parent, f"{{{NAMESPACE}}}{name}", given)
    if text is not None:
        element.text = xml_text(text)
    return element


def xml_text(text: str) -> str:
    """`text` without the characters that XML cannot hold; they become U+FFFD."""
    return "".join(c if c in "\t\n\r" or (c >= " " and not _is_bad(c)) else "\ufffd" for c in text)


def _is_bad(char: str) -> bool:
    return "\ud800" <= char <= "\udfff" or char in "\ufffe\uffff"


def _write_result(element: _Element, result: Result) -> None:
    _child(element, "Decision", result.decision.value)
    _write_status(_child(element, "Status"), result.status)
    for advice, group, kind in (
        (False, "Obligations", "Obligation"),
        (True, "AssociatedAdvice", "Advice"),
    ):
        due = [o for o in result.obligations if o.advice is advice]
        if due:
            parent = _child(element, group)
            for obligation in due:
                _write_obligation(parent, kind, obligation)
    for entity in result.attributes:
        _write_attributes(element, entity)
    if result.policies:
        listed = _child(element, "PolicyIdentifierList")
        for policy in result.policies:
            name = "PolicySetIdReference" if policy.policy_set else "PolicyIdReference"
            _child(listed, name, policy.id, Version=policy.version)


def _write_status(element: _Element, status: Status) -> None:
    _child(element, "StatusCode", Value=status.code)
    if status.message:
        _child(element, "StatusMessage", status.message)
    if status.missing:
        detail = _child(element, "StatusDetail")
        for missing in status.missing:
            _child(
                detail,
                "MissingAttributeDetail",
                Category=missing.category,
                AttributeId=missing.attribute_id,
                DataType=missing.datatype,
                Issuer=missing.issuer,
            )


def _write_obligation(parent: _Element, kind: str, obligation: Obligation) -> None:
    element = _child(parent, kind, **{f"{kind}Id": obligation.id})
    for assignment in obligation.assignments:
        _child(
            element,
            "AttributeAssignment",
            assignment.value,
            AttributeId=assignment.attribute_id,
            DataType=assignment.datatype,
            Category=assignment.category,
            Issuer=assignment.issuer,
            XPathCategory=assignment.xpath_category,
        )


def _write_attributes(parent: _Element, entity: Attributes) -> None:
    element = _child(parent, "Attributes", Category=entity.category)
    for attribute in entity.attributes:
        found = _child(
            element,
            "Attribute",
            AttributeId=attribute.id,
            Issuer=attribute.issuer,
            IncludeInResult="true" if attribute.include_in_result else "false",
        )
        for value in attribute.values:
            _write_value(found, value)


def _write_value(parent: _Element, value: AttributeValue) -> None:
    tag = f"{{{NAMESPACE}}}AttributeValue"
    prefixes = {**value.namespaces}
    element = etree.SubElement(parent, tag, {"DataType": xml_text(value.datatype)}, nsmap=prefixes)
    if value.xpath_category:
        element.set("XPathCategory", xml_text(value.xpath_category))
    element.text = xml_text(value.text)


def read_xml_response(document: bytes, file: str = "") -> XacmlResponse:
    """Raises `InvalidInput` if the document is not a response of XACML 3.0."""
    root = parse_xml(document, MAX_REQUEST_BYTES, "response", file)
    try:
        if e.name_of(root) != "Response":
            raise e.fault(root, "not-a-response", f"{e.name_of(root)} is not a Response")
        found = []
        for name, child in e.children_of(root):
            if name != "Result":
                raise e.refuse_child(root, child)
            found.append(_result(child))
        return XacmlResponse(tuple(found))
    except PolicyFault as fault:
        finding = Diagnostic(Severity.ERROR, fault.code, fault.message, file, fault.line)
        message = f"the response cannot be read: {fault.message}"
        raise InvalidInput(message, code=fault.code, diagnostics=(finding,)) from None


def _result(element: _Element) -> Result:
    decision: Decision | None = None
    status = Status()
    obligations: list[Obligation] = []
    attributes: list[Attributes] = []
    policies: tuple[PolicyId, ...] | None = None
    for name, child in e.children_of(element):
        match name:
            case "Decision":
                decision = _decision(child)
            case "Status":
                status = _status(child)
            case "Obligations" | "AssociatedAdvice":
                obligations += _obligations(child, advice=name == "AssociatedAdvice")
            case "Attributes":
                attributes.append(attributes_element(child))
            case "PolicyIdentifierList":
                policies = _policies(child)
            case _:
                raise e.refuse_child(element, child)
    if decision is None:
        raise e.fault(element, "no-decision", "the result has no Decision")
    return Result(decision, status, tuple(obligations), tuple(attributes), policies)


def _decision(element: _Element) -> Decision:
    try:
        return Decision(e.text_of(element).strip())
    except ValueError:
        raise e.fault(element, "bad-decision", "not a decision") from None


def _status(element: _Element) -> Status:
    code, message = "", ""
    missing: tuple[MissingAttribute, ...] = ()
    for name, child in e.children_of(element):
        match name:
            case "StatusCode":
                code = str(child.get("Value") or "")
            case "StatusMessage":
                message = e.text_of(child)
            case "StatusDetail":
                missing = tuple(_missing(child))
            case _:
                raise e.refuse_child(element, child)
    return Status(code, message, missing)


def _missing(element: _Element) -> list[MissingAttribute]:
    return [
        MissingAttribute(
            str(child.get("Category") or ""),
            str(child.get("AttributeId") or ""),
            str(child.get("DataType") or ""),
            str(child.get("Issuer") or ""),
        )
        for child in element
        if child.tag == f"{{{NAMESPACE}}}MissingAttributeDetail"
    ]


def _obligations(element: _Element, *, advice: bool) -> list[Obligation]:
    kind = "Advice" if advice else "Obligation"
    found = []
    for name, child in e.children_of(element):
        if name != kind:
            raise e.refuse_child(element, child)
        head = e.attributes_of(child, (f"{kind}Id",))
        assignments = []
        for inner, assignment in e.children_of(child):
            if inner != "AttributeAssignment":
                raise e.refuse_child(child, assignment)
            assignments.append(_assignment(assignment))
        found.append(Obligation(head[f"{kind}Id"].strip(), tuple(assignments), advice))
    return found


def _assignment(element: _Element) -> Assignment:
    optional = ("Category", "Issuer", "XPathCategory")
    head = e.attributes_of(element, ("AttributeId", "DataType"), optional)
    return Assignment(
        head["AttributeId"].strip(),
        head["DataType"].strip(),
        e.text_of(element),
        head.get("Category", "").strip(),
        head.get("Issuer", ""),
        head.get("XPathCategory", "").strip(),
    )


def _policies(element: _Element) -> tuple[PolicyId, ...]:
    found = []
    for name, child in e.children_of(element):
        if name not in ("PolicyIdReference", "PolicySetIdReference"):
            raise e.refuse_child(element, child)
        optional = ("Version", "EarliestVersion", "LatestVersion")
        version = e.attributes_of(child, (), optional).get("Version", "")
        policy_set = name == "PolicySetIdReference"
        found.append(PolicyId(e.text_of(child).strip(), version, policy_set))
    return tuple(found)
