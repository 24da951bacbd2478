"""A request in XML to `XacmlRequest`, strictly as the schema has it (core, 5.42 to 5.46)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxml import etree

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.policy.xacml import elements as e
from limen.core.policy.xacml import names
from limen.core.policy.xacml.errors import PolicyFault
from limen.core.policy.xacml.limits import MAX_REQUEST_BYTES
from limen.core.policy.xacml.request import Attribute, Attributes, XacmlRequest
from limen.core.policy.xacml.safexml import parse_xml
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from lxml.etree import _Element

_XML_ID = "{http://www.w3.org/XML/1998/namespace}id"


def read_xml_request(document: bytes, file: str = "") -> XacmlRequest:
    """Raises `InvalidInput` if the document is not a request of XACML 3.0."""
    root = parse_xml(document, MAX_REQUEST_BYTES, "request", file)
    try:
        return _request(root)
    except PolicyFault as fault:
        found = Diagnostic(
            Severity.ERROR, fault.code, fault.message, file, fault.line, hint=fault.hint
        )
        message = f"the request cannot be read: {fault.message}"
        raise InvalidInput(message, code=fault.code, diagnostics=(found,)) from None


def _request(root: _Element) -> XacmlRequest:
    if e.name_of(root) != "Request":
        raise e.fault(root, "not-a-request", f"{e.name_of(root)} is not a Request")
    head = e.attributes_of(root, ("ReturnPolicyIdList", "CombinedDecision"))
    entities: list[Attributes] = []
    references: list[tuple[str, ...]] = []
    for name, child in e.children_of(root):
        match name:
            case "RequestDefaults":
                _defaults(child)
            case "Attributes":
                entities.append(attributes_element(child))
            case "MultiRequests":
                references += _references(child)
            case _:
                raise e.refuse_child(root, child)
    if not entities:
        raise e.fault(root, "empty-request", "the request has no Attributes")
    return XacmlRequest(
        tuple(entities),
        tuple(references),
        e.boolean_of(root, "ReturnPolicyIdList", head["ReturnPolicyIdList"]),
        e.boolean_of(root, "CombinedDecision", head["CombinedDecision"]),
    )


def _defaults(element: _Element) -> None:
    for name, child in e.children_of(element):
        if name != "XPathVersion":
            raise e.refuse_child(element, child)
        version = e.text_of(child).strip()
        if not names.is_xpath_1(version):
            message = f"XPath version {version} is not supported"
            raise e.fault(child, "xpath-version", message, f"use {names.XPATH_1}")


def attributes_element(element: _Element) -> Attributes:
    """`Attributes`, in a request or a result. Raises `PolicyFault`."""
    head = e.attributes_of(element, ("Category",))
    content: bytes | None = None
    found: list[Attribute] = []
    for name, child in e.children_of(element):
        match name:
            case "Content" if content is None:
                content = _content(child)
            case "Attribute":
                found.append(_attribute(child))
            case _:
                raise e.refuse_child(element, child)
    xml_id = str(element.get(_XML_ID) or "")
    return Attributes(head["Category"].strip(), tuple(found), content, xml_id)


def _content(element: _Element) -> bytes:
    """The one element inside `Content`, with the namespaces in its scope."""
    inner = [child for child in element if isinstance(child.tag, str)]
    if len(inner) != 1:
        raise e.fault(element, "bad-content", f"Content holds {len(inner)} elements, not one")
    return etree.tostring(inner[0], encoding="utf-8", with_tail=False)


def _attribute(element: _Element) -> Attribute:
    head = e.attributes_of(element, ("AttributeId", "IncludeInResult"), ("Issuer",))
    values = []
    for name, child in e.children_of(element):
        if name != "AttributeValue":
            raise e.refuse_child(element, child)
        values.append(e.attribute_value_of(child))
    if not values:
        raise e.fault(element, "no-value", f"attribute {head['AttributeId']} has no value")
    included = e.boolean_of(element, "IncludeInResult", head["IncludeInResult"])
    return Attribute(head["AttributeId"].strip(), tuple(values), head.get("Issuer", ""), included)


def _references(element: _Element) -> list[tuple[str, ...]]:
    found = []
    for name, child in e.children_of(element):
        if name != "RequestReference":
            raise e.refuse_child(element, child)
        references = []
        for inner, reference in e.children_of(child):
            if inner != "AttributesReference":
                raise e.refuse_child(child, reference)
            references.append(e.attributes_of(reference, ("ReferenceId",))["ReferenceId"].strip())
        if not references:
            raise e.fault(child, "empty-reference", "RequestReference refers to nothing")
        found.append(tuple(references))
    if not found:
        raise e.fault(element, "empty-reference", "MultiRequests has no RequestReference")
    return found
