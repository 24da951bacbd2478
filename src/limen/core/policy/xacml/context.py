"""What is known while one individual request is judged: bags, content, time, and a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import names
from limen.core.policy.xacml.datatypes import BY_URI, XPATH_EXPRESSION, XPathValue
from limen.core.policy.xacml.errors import processing_error, syntax_error
from limen.core.policy.xacml.limits import MAX_REQUEST_BYTES, MAX_WORK
from limen.core.policy.xacml.safexml import parse_xml
from limen.core.policy.xacml.temporal import moments_at
from limen.core.policy.xacml.xpath import check_foreign_path
from limen.errors import InvalidInput

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Sequence

    from limen.core.policy.xacml.decision import PolicyId
    from limen.core.policy.xacml.request import Attributes, AttributeValue
    from limen.core.policy.xacml.trace import Trace

    Key = tuple[str, str, str, str | None]
    """Category, attribute, datatype (identifiers), issuer (None: any)."""
    Finder = Callable[[str, str, str, str | None], Sequence[AttributeValue]]
    """Gives the values of an attribute that the request has not; empty if it knows none."""

_MAX_CONTENT_NODES = 20_000


class Context:
    """One individual decision request, read.

    `bags` maps (category, attribute, datatype, issuer or None) to values. `applied` collects the
    policies that applied; `memo` keeps what is evaluated once; `trace` is None unless asked for.
    """

    __slots__ = ("_contents", "_finder", "_now", "_work", "applied", "bags", "memo", "trace")

    def __init__(
        self, categories: Iterable[Attributes], now: dt.datetime, finder: Finder | None = None
    ) -> None:
        """Raises `EvaluationError` (syntax-error) if a value is none of its datatype."""
        self.bags: dict[Key, list[Any]] = {}
        self.memo: dict[object, Any] = {}
        self.applied: list[PolicyId] = []
        self.trace: Trace | None = None
        self._now = now
        self._work = MAX_WORK
        self._finder = finder
        self._contents: dict[str, Any] = {}
        for entity in categories:
            self._add(entity)

    def _add(self, entity: Attributes) -> None:
        category, bags = entity.category, self.bags
        if entity.content is not None:
            self._contents[category] = entity.content
        for attribute in entity.attributes:
            name, issuer = attribute.id, attribute.issuer
            for written in attribute.values:
                uri, value = read_value(written)
                key: Key = (category, name, uri, None)
                if key in bags:
                    bags[key].append(value)
                else:
                    bags[key] = [value]
                if issuer:
                    bags.setdefault((category, name, uri, issuer), []).append(value)

    def find(self, key: Key) -> list[Any]:
        """The bag of an attribute that the request does not have: supplied, or empty."""
        category, attribute_id, datatype, issuer = key
        found: list[Any] = []
        if category == names.ENVIRONMENT and issuer is None:
            found = self._moment(attribute_id, datatype)
        if not found and self._finder is not None:
            written = self._finder(category, attribute_id, datatype, issuer)
            read = [read_value(value) for value in written]
            found = [value for uri, value in read if uri == datatype]
        self.bags[key] = found
        return found

    def _moment(self, attribute_id: str, datatype: str) -> list[Any]:
        wanted = (
            (names.CURRENT_TIME, names.TIME),
            (names.CURRENT_DATE, names.DATE),
            (names.CURRENT_DATE_TIME, names.DATE_TIME),
        )
        if (attribute_id, datatype) not in wanted:
            return []
        return [moments_at(self._now)[wanted.index((attribute_id, datatype))]]

    def has_content(self, category: str) -> bool:
        """Whether the request has a document for `category`."""
        return category in self._contents

    def document(self, category: str) -> Any:
        """The document (lxml tree) of `category`. Raises `EvaluationError`."""
        content = self._contents.get(category)
        if content is None:
            raise syntax_error(f"category {category} has no Content")
        if isinstance(content, bytes):
            content = parse_content(content)
            self._contents[category] = content
        return content

    def spend(self, steps: int) -> None:
        """Account for work. Raises `EvaluationError` when the budget is used up."""
        self._work -= steps
        if self._work < 0:
            raise processing_error("the decision takes too many steps")


def parse_content(content: bytes) -> Any:
    """The tree of a `Content` document. Raises `EvaluationError`."""
    try:
        root = parse_xml(content, MAX_REQUEST_BYTES, "Content")
    except InvalidInput as error:
        raise syntax_error(error.message) from None
    if sum(1 for _ in root.iter()) > _MAX_CONTENT_NODES:
        raise syntax_error(f"Content has more than {_MAX_CONTENT_NODES} nodes")
    return root.getroottree()


def read_value(written: AttributeValue) -> tuple[str, Any]:
    """Datatype (present identifier) and value of a request's value.

    Raises `EvaluationError` (syntax-error). A datatype that no policy can name is kept as text.
    """
    if written.datatype == names.STRING:
        return names.STRING, written.text
    datatype = BY_URI.get(written.datatype)
    if datatype is None:
        return written.datatype, written.text
    try:
        if datatype is XPATH_EXPRESSION:
            check_foreign_path(written.text)
            path = written.text.strip()
            return datatype.uri, XPathValue(path, written.xpath_category, written.namespaces)
        return datatype.uri, datatype.read(written.text)
    except ValueError as error:
        raise syntax_error(f"a value is no {datatype.name}: {error}") from None
