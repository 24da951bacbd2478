"""`access-permitted` (core, A.3.16): a whole evaluation inside another."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml.errors import PolicyFault, syntax_error
from limen.core.policy.xacml.functions.function import Function
from limen.core.policy.xacml.limits import MAX_REQUEST_BYTES
from limen.core.policy.xacml.names import NAMESPACE, V3
from limen.core.policy.xacml.safexml import parse_xml
from limen.core.policy.xacml.static import one
from limen.core.policy.xacml.xml_request import attributes_element
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.policy.xacml.context import Context
    from limen.core.policy.xacml.request import Attributes


def _attributes(category: str, inside: str) -> Attributes:
    text = f"<Attributes xmlns={quoteattr(NAMESPACE)} Category={quoteattr(category)}>{inside}"
    document = f"{text}</Attributes>".encode("utf-8", "replace")
    try:
        return attributes_element(parse_xml(document, MAX_REQUEST_BYTES, "access-permitted"))
    except (InvalidInput, PolicyFault) as error:
        raise syntax_error(f"access-permitted: {error.message}") from None


def _access_permitted(ctx: Context, category: str, inside: str) -> bool:
    """Whether the same request with other attributes of `category` is permitted."""
    return ctx.permitted(_attributes(category, inside))


def functions() -> Iterator[Function]:
    """All of this family."""
    params = (one(t.ANY_URI), one(t.STRING))
    uri = f"{V3}function:access-permitted"
    yield Function(uri, params, one(t.BOOLEAN), _access_permitted, in_context=True)
