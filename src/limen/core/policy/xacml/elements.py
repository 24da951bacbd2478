"""Strict reading of one XACML element: its attributes, its children, its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.xacml.errors import PolicyFault
from limen.core.policy.xacml.names import NAMESPACE
from limen.core.policy.xacml.request import AttributeValue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lxml.etree import _Element

_FOREIGN = ("{http://www.w3.org/2001/XMLSchema-instance}", "{http://www.w3.org/XML/1998/namespace}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_PREFIX = f"{{{NAMESPACE}}}"
_LINES_END = 65_535


def line_of(element: _Element) -> int:
    """Where the element begins; 0 where libxml2 no longer counts."""
    line = element.sourceline or 0
    return 0 if line >= _LINES_END else int(line)


def name_of(element: _Element) -> str:
    """The local name of an XACML 3.0 element. Raises `PolicyFault` for any other."""
    tag = str(element.tag)
    if not tag.startswith(_PREFIX):
        hint = f"the namespace of XACML 3.0 is {NAMESPACE}"
        raise fault(element, "unknown-element", f"{tag} is not an element of XACML 3.0", hint)
    return tag[len(_PREFIX) :]


def fault(element: _Element, code: str, message: str, hint: str = "") -> PolicyFault:
    """A fault at `element`."""
    return PolicyFault(f"xacml-{code}", message, line_of(element), hint)


def children_of(element: _Element) -> Iterator[tuple[str, _Element]]:
    """Name and element of every child; text between them is refused."""
    if (element.text or "").strip():
        raise fault(element, "unexpected-text", f"text in {name_of(element)}")
    for child in element:
        if (child.tail or "").strip():
            raise fault(element, "unexpected-text", f"text in {name_of(element)}")
        if isinstance(child.tag, str):
            yield name_of(child), child
        elif child.tag is not None and getattr(child, "name", None):
            raise fault(element, "entity", "an entity reference", "write the character itself")


def refuse_child(element: _Element, child: _Element) -> PolicyFault:
    """The fault of a child that has no place there."""
    message = f"{name_of(child)} has no place in {name_of(element)}"
    return fault(child, "unexpected-element", message)


def attributes_of(
    element: _Element, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, str]:
    """The XML attributes, all `required` ones present and none unknown."""
    found: dict[str, str] = {}
    for key, value in element.attrib.items():
        name = str(key)
        if name in required or name in optional:
            found[name] = str(value)
        elif not name.startswith(_FOREIGN):
            message = f"{name_of(element)} has no attribute {name}"
            raise fault(element, "unknown-attribute", message)
    for name in required:
        if name not in found:
            raise fault(element, "missing-attribute", f"{name_of(element)} needs {name}")
    return found


def boolean_of(element: _Element, name: str, value: str) -> bool:
    """An XML attribute that is true or false."""
    answer = _BOOLEANS.get(value.strip())
    if answer is None:
        raise fault(element, "bad-value", f"{name} is not true or false")
    return answer


def text_of(element: _Element) -> str:
    """All text; comments are skipped, not ends of the text. Child elements are refused."""
    parts = [element.text or ""]
    for child in element:
        if isinstance(child.tag, str) or getattr(child, "name", None):
            raise fault(element, "unexpected-element", f"{name_of(element)} holds text only")
        parts.append(child.tail or "")
    return "".join(parts)


def namespaces_of(element: _Element) -> Mapping[str, str]:
    """Prefixes in scope."""
    return {prefix: uri for prefix, uri in element.nsmap.items() if prefix}


def attribute_value_of(element: _Element) -> AttributeValue:
    """`AttributeValue`, as written."""
    found = attributes_of(element, ("DataType",), ("XPathCategory",))
    category = found.get("XPathCategory", "")
    namespaces = namespaces_of(element) if category else {}
    return AttributeValue(text_of(element), found["DataType"].strip(), category, namespaces)
