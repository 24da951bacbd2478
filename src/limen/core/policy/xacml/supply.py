"""Attributes of declared sources, as the context of an evaluation finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.sources import AttributeUnavailable
from limen.core.policy.xacml import names
from limen.core.policy.xacml.datatypes import BY_NAME
from limen.core.policy.xacml.request import AttributeValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.model.attribute_source import AttributeName
    from limen.core.policy.sources import Asking, SourceBook
    from limen.core.policy.xacml.context import Context, Finder

SUBJECT_ID = f"{names.V1}subject:subject-id"
RESOURCE_ID = f"{names.V1}resource:resource-id"
ACTION_ID = f"{names.V1}action:action-id"
TYPE = "urn:limen:type"

_CATEGORIES = {
    "subject": names.ACCESS_SUBJECT,
    "resource": names.RESOURCE,
    "action": names.ACTION,
    "environment": names.ENVIRONMENT,
}
_IDS = {
    ("subject", "id"): SUBJECT_ID,
    ("resource", "id"): RESOURCE_ID,
    ("action", "name"): ACTION_ID,
    ("subject", "type"): TYPE,
    ("resource", "type"): TYPE,
}


def key_of_name(name: AttributeName) -> tuple[str, str, str]:
    """Category, attribute and datatype as XACML identifies them."""
    category = _CATEGORIES.get(name.category, name.category)
    identifier = _IDS.get((name.category, name.id), name.id)
    return category, identifier, BY_NAME[name.datatype].uri


class SourceFinder:
    """Finders over the sources of `book`; one is made for all requests."""

    def __init__(self, book: SourceBook) -> None:
        self._names = {
            key_of_name(given.attribute): given.attribute
            for source in book.sources
            for given in source.gives
        }

    def finder(self, asking: Asking) -> Finder:
        """The finder of one request. Raises what `Asking.values` raises."""

        def find(
            category: str, attribute_id: str, datatype: str, issuer: str | None, ctx: Context
        ) -> Sequence[AttributeValue]:
            name = self._names.get((category, attribute_id, datatype))
            if name is None or issuer is not None:
                return ()

            def lookup(wanted: AttributeName) -> Sequence[Any]:
                return ctx.values(*key_of_name(wanted))

            texts = asking.values(name, lookup)
            kind = BY_NAME[name.datatype]
            for text in texts:
                try:
                    kind.read(text)
                except ValueError:
                    reason = f"the source of {name.id} gives something that is no {name.datatype}"
                    raise AttributeUnavailable(name, reason) from None
            return [AttributeValue(text, kind.uri) for text in texts]

        return find
