"""A request in the JSON profile (1.0 and 1.1) to `XacmlRequest`. Unknown members are refused."""

from __future__ import annotations

import base64
import binascii
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from lxml import etree

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml import names
from limen.core.policy.xacml.limits import MAX_INTEGER_DIGITS, MAX_REQUEST_BYTES
from limen.core.policy.xacml.request import (
    Attribute,
    Attributes,
    AttributeValue,
    XacmlRequest,
)
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SUBJECT = f"{names.V1}subject-category:"
CATEGORIES = {
    "AccessSubject": names.ACCESS_SUBJECT,
    "Subject": names.ACCESS_SUBJECT,
    "RecipientSubject": f"{_SUBJECT}recipient-subject",
    "IntermediarySubject": f"{_SUBJECT}intermediary-subject",
    "Codebase": f"{_SUBJECT}codebase",
    "RequestingMachine": f"{_SUBJECT}requesting-machine",
    "Resource": names.RESOURCE,
    "Action": names.ACTION,
    "Environment": names.ENVIRONMENT,
}
"""Members that stand for a category."""

_REQUEST = {"ReturnPolicyIdList", "CombinedDecision", "XPathVersion", "MultiRequests", "Category"}
_CATEGORY = {"CategoryId", "Id", "Content", "Attribute"}
_ATTRIBUTE = {"AttributeId", "Value", "Issuer", "DataType", "IncludeInResult"}


def read_json_request(document: bytes) -> XacmlRequest:
    """Raises `InvalidInput` if the document is not a request of the JSON profile."""
    top = _object(parse_json(document), {"Request"}, "the document")
    if "Request" not in top:
        _refuse("the document has no Request")
    request = _object(top["Request"], _REQUEST | set(CATEGORIES), "Request")
    version = _text(request, "XPathVersion", "Request", "")
    if not names.is_xpath_1(version):
        _refuse(f"XPathVersion {version!r} is not supported: use {names.XPATH_1}")
    entities = tuple(_entities(request))
    if not entities:
        _refuse("the request has no category")
    return XacmlRequest(
        entities,
        _references(request.get("MultiRequests")),
        _boolean(request, "ReturnPolicyIdList"),
        _boolean(request, "CombinedDecision"),
    )


def parse_json(document: bytes) -> Any:
    """Strict JSON: no duplicate member, no NaN, bounded. Raises `InvalidInput`."""
    if len(document) > MAX_REQUEST_BYTES:
        _refuse(f"more than {MAX_REQUEST_BYTES} bytes")
    try:
        return json.loads(
            document.decode("utf-8"),
            parse_float=Decimal,
            parse_int=_parse_int,
            parse_constant=_constant,
            object_pairs_hook=_members,
        )
    except RecursionError:
        _refuse("nested too deeply")
    except (ValueError, ArithmeticError) as error:
        _refuse(f"not JSON: {error}")


def _parse_int(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError("a number is too long")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member occurs twice")
    return found


def _refuse(message: str) -> NoReturn:
    raise InvalidInput(f"the request cannot be read: {message}", code="xacml-json")


def _object(value: Any, known: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{what} is not an object")
    for name in value:
        if name not in known:
            _refuse(f"{what} has no member {name[:60]!r}")
    return value


def _list(value: Any) -> list[Any]:
    """One or several: the profile lets a single one stand without brackets."""
    return value if isinstance(value, list) else [value]


def _text(source: Mapping[str, Any], name: str, what: str, default: str | None = None) -> str:
    value = source.get(name, default)
    if not isinstance(value, str):
        _refuse(f"{what} needs {name}, a string")
    return value


def _boolean(source: Mapping[str, Any], name: str) -> bool:
    value = source.get(name, False)
    if not isinstance(value, bool):
        _refuse(f"{name} is not true or false")
    return value


def _entities(request: Mapping[str, Any]) -> Iterator[Attributes]:
    for member, category in CATEGORIES.items():
        if member in request:
            for value in _list(request[member]):
                yield _entity(value, member, category)
    for value in _list(request.get("Category", [])):
        yield _entity(value, "Category", None)


def _entity(value: Any, what: str, category: str | None) -> Attributes:
    found = _object(value, _CATEGORY, what)
    named = _text(found, "CategoryId", what, category)
    if category is not None and named != category:
        _refuse(f"{what} has the CategoryId of another category")
    attributes = tuple(_attribute(a) for a in _list(found.get("Attribute", [])))
    content = _content(_text(found, "Content", what)) if "Content" in found else None
    short = CATEGORIES.get(named, named)
    return Attributes(short, attributes, content, _text(found, "Id", what, ""))


def _content(text: str) -> bytes:
    """XML as it is, or in base64."""
    if text.lstrip().startswith("<"):
        return text.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _refuse("Content is neither XML nor base64")


def _attribute(value: Any) -> Attribute:
    found = _object(value, _ATTRIBUTE, "Attribute")
    attribute_id = _text(found, "AttributeId", "Attribute")
    if "Value" not in found:
        _refuse(f"attribute {attribute_id} has no Value")
    given = _list(found["Value"])
    datatype = _text(found, "DataType", "Attribute", _inferred(given, attribute_id))
    known = t.BY_NAME.get(datatype)
    uri = known.uri if known else datatype
    values = tuple(_value(item, uri, attribute_id) for item in given)
    if not values:
        _refuse(f"attribute {attribute_id} has no value")
    issuer = _text(found, "Issuer", "Attribute", "")
    return Attribute(attribute_id, values, issuer, _boolean(found, "IncludeInResult"))


def _inferred(values: Sequence[Any], attribute_id: str) -> str:
    """The datatype that JSON's own types tell (profile, 3.3.1)."""
    kinds = {type(value) for value in values}
    if kinds <= {bool}:
        return names.BOOLEAN
    if kinds <= {int}:
        return names.INTEGER
    if kinds <= {int, Decimal}:
        return names.DOUBLE
    if kinds <= {str}:
        return names.STRING
    if kinds <= {dict}:
        return names.XPATH_EXPRESSION
    _refuse(f"the values of attribute {attribute_id} are of several types")


def _value(value: Any, datatype: str, attribute_id: str) -> AttributeValue:
    if datatype == names.XPATH_EXPRESSION:
        return _xpath(value, attribute_id)
    if isinstance(value, str):
        return AttributeValue(value, datatype)
    if isinstance(value, bool) and datatype == names.BOOLEAN:
        return AttributeValue("true" if value else "false", datatype)
    number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    if number and datatype in (names.INTEGER, names.DOUBLE):
        return AttributeValue(str(value), datatype)
    _refuse(f"a value of attribute {attribute_id} does not fit its DataType")


def _xpath(value: Any, attribute_id: str) -> AttributeValue:
    what = f"the XPath of attribute {attribute_id}"
    found = _object(value, {"XPathCategory", "Namespaces", "XPath"}, what)
    prefixes = _prefixes(found.get("Namespaces", []), what)
    category = _text(found, "XPathCategory", what)
    path = _text(found, "XPath", what)
    return AttributeValue(
        path, names.XPATH_EXPRESSION, CATEGORIES.get(category, category), prefixes
    )


def _prefixes(value: Any, what: str) -> dict[str, str]:
    """Prefix to namespace. The default namespace is left out: XPath 1.0 has none."""
    found: dict[str, str] = {}
    for item in _list(value):
        pair = _object(item, {"Prefix", "Namespace"}, "Namespaces")
        prefix = _text(pair, "Prefix", "Namespaces", "")
        uri = _text(pair, "Namespace", "Namespaces")
        if prefix:
            found[prefix] = uri
    try:
        etree.Element("any", nsmap={**found})
    except ValueError:
        _refuse(f"{what} has a prefix or namespace that XML has not")
    if any(not uri or prefix.lower().startswith("xml") for prefix, uri in found.items()):
        _refuse(f"{what} has an empty namespace or a prefix that XML keeps for itself")
    return found


def _references(value: Any) -> tuple[tuple[str, ...], ...]:
    if value is None:
        return ()
    found = _object(value, {"RequestReference"}, "MultiRequests")
    references = []
    for item in _list(found.get("RequestReference", [])):
        ids = _list(_object(item, {"ReferenceId"}, "RequestReference").get("ReferenceId", []))
        if not ids or not all(isinstance(reference, str) for reference in ids):
            _refuse("RequestReference needs ReferenceId, strings")
        references.append(tuple(ids))
    if not references:
        _refuse("MultiRequests has no RequestReference")
    return tuple(references)
