"""What is known while one individual request is judged: bags, content, time, and a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lxml import etree

from limen.core.policy.xacml import names
from limen.core.policy.xacml.datatypes import BY_URI, XPATH_EXPRESSION, XPathValue
from limen.core.policy.xacml.errors import WorkExhausted, syntax_error
from limen.core.policy.xacml.limits import (
    MAX_ACCESS_CALLS,
    MAX_ACCESS_DEPTH,
    MAX_CONTENT_PAIRS,
    MAX_REQUEST_BYTES,
    MAX_WORK,
)
from limen.core.policy.xacml.safexml import parse_xml
from limen.core.policy.xacml.temporal import moments_at
from limen.core.policy.xacml.xpath import check_foreign_path
from limen.errors import InvalidInput

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Sequence

    from limen.core.policy.xacml.decision import PolicyId
    from limen.core.policy.xacml.request import Attributes, AttributeValue
    from limen.core.policy.xacml.trace import Trace

    Key = tuple[str, str, str, str | None]
    """Category, attribute, datatype (identifiers), issuer (None: any)."""
    Finder = Callable[[str, str, str, str | None, "Context"], Sequence[AttributeValue]]
    """Gives the values of an attribute that the request has not; empty if it knows none."""


class Shared:
    """What the individual decisions of one request share: the budget, and read documents."""

    __slots__ = ("calls", "documents", "work")

    def __init__(self) -> None:
        self.work = MAX_WORK
        self.calls = 0
        self.documents: dict[int, tuple[bytes, Any]] = {}


class Context:
    """One individual decision request, read.

    `bags` maps (category, attribute, datatype, issuer or None) to values. `applied` collects the
    policies that applied; `memo` keeps what is evaluated once; `trace` is None unless asked for.
    `judge` decides another request by the same policies.
    """

    __slots__ = (
        "_contents",
        "_depth",
        "_entities",
        "_finder",
        "_now",
        "_shared",
        "applied",
        "bags",
        "judge",
        "memo",
        "trace",
    )

    def __init__(
        self,
        categories: Sequence[Attributes],
        now: dt.datetime,
        finder: Finder | None = None,
        shared: Shared | None = None,
    ) -> None:
        """Raises `EvaluationError` (syntax-error) if a value is none of its datatype."""
        self.bags: dict[Key, list[Any]] = {}
        self.memo: dict[object, Any] = {}
        self.applied: list[PolicyId] = []
        self.trace: Trace | None = None
        self.judge: Callable[[Context], bool] | None = None
        self._entities = categories
        self._depth = 0
        self._now = now
        self._shared = Shared() if shared is None else shared
        self._finder = finder
        self._contents: dict[str, bytes] = {}
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
            written = self._finder(category, attribute_id, datatype, issuer, self)
            read = [read_value(value) for value in written]
            found = [value for uri, value in read if uri == datatype]
        self.bags[key] = found
        return found

    def values(self, category: str, attribute_id: str, datatype: str) -> list[Any]:
        """The bag of an attribute of any issuer, whoever supplies it."""
        key: Key = (category, attribute_id, datatype, None)
        bag = self.bags.get(key)
        return self.find(key) if bag is None else bag

    def _moment(self, attribute_id: str, datatype: str) -> list[Any]:
        wanted = (
            (names.CURRENT_TIME, names.TIME),
            (names.CURRENT_DATE, names.DATE),
            (names.CURRENT_DATE_TIME, names.DATE_TIME),
        )
        if (attribute_id, datatype) not in wanted:
            return []
        return [moments_at(self._now)[wanted.index((attribute_id, datatype))]]

    def permitted(self, entity: Attributes) -> bool:
        """Whether this request with `entity` for its category is permitted, judged anew.

        Raises `WorkExhausted` beyond the bounds of such evaluations.
        """
        self._shared.calls += 1
        if self._shared.calls > MAX_ACCESS_CALLS or self._depth >= MAX_ACCESS_DEPTH:
            raise WorkExhausted
        others = [e for e in self._entities if e.category != entity.category]
        inner = Context([*others, entity], self._now, self._finder, self._shared)
        inner._depth = self._depth + 1
        inner.judge = self.judge
        return self.judge is not None and self.judge(inner)

    def has_content(self, category: str) -> bool:
        """Whether the request has a document for `category`."""
        return category in self._contents

    def document(self, category: str) -> Any:
        """The document (lxml tree) of `category`. Raises `EvaluationError`."""
        content = self._contents.get(category)
        if content is None:
            raise syntax_error(f"category {category} has no Content")
        documents = self._shared.documents
        if id(content) not in documents:
            documents[id(content)] = (content, parse_content(content))
        return documents[id(content)][1]

    def spend(self, steps: int) -> None:
        """Account for work. Raises `WorkExhausted` when the request's budget is used up."""
        self._shared.work -= steps
        if self._shared.work < 0:
            raise WorkExhausted


def parse_content(content: bytes) -> Any:
    """The tree of a `Content` document. Raises `EvaluationError`."""
    try:
        root = parse_xml(content, MAX_REQUEST_BYTES, "Content")
    except InvalidInput as error:
        raise syntax_error(error.message) from None
    if _ancestor_pairs(root) > MAX_CONTENT_PAIRS:
        raise syntax_error("Content has too many nodes, or nests them too deeply")
    return root.getroottree()


def _ancestor_pairs(root: Any) -> int:
    """The sum of the depths of all nodes, counted no further than the limit.

    What an XPath with several steps over all depths costs grows with it.
    """
    pairs = depth = 0
    for event, _ in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
        if event == "end":
            depth -= 1
            continue
        pairs += depth + 1
        depth += event == "start"
        if pairs > MAX_CONTENT_PAIRS:
            break
    return pairs


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
