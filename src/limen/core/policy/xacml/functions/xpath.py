"""Functions over XPath expressions (core, A.3.15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml.functions.function import Function
from limen.core.policy.xacml.names import V3
from limen.core.policy.xacml.static import one
from limen.core.policy.xacml.xpath import select_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.policy.xacml.context import Context
    from limen.core.policy.xacml.datatypes import XPathValue


def _nodes(ctx: Context, value: XPathValue) -> list[Any]:
    """The selected nodes; none where the category has no `Content`."""
    if not ctx.has_content(value.category):
        return []
    nodes = select_nodes(ctx.document(value.category), value.path, value.namespaces)
    ctx.spend(len(nodes))
    return nodes


def _count(ctx: Context, value: XPathValue) -> int:
    return len(_nodes(ctx, value))


def _identity(node: Any) -> tuple[Any, ...]:
    """What is equal exactly for one and the same node of a document."""
    if isinstance(node, str):
        owner = node.getparent()  # type: ignore[attr-defined]  # lxml's smart strings
        kind = node.attrname if node.is_attribute else ("tail" if node.is_tail else "text")  # type: ignore[attr-defined]  # lxml's smart strings
        return (owner, node.is_attribute, kind)  # type: ignore[attr-defined]  # lxml's smart strings
    return (node, None, None)


def _equal(ctx: Context, first: XPathValue, second: XPathValue) -> bool:
    left = {_identity(node) for node in _nodes(ctx, first)}
    return any(_identity(node) in left for node in _nodes(ctx, second))


def _match(ctx: Context, first: XPathValue, second: XPathValue) -> bool:
    """Some node of `second` is one of `first`, or an attribute or descendant of one."""
    left = {_identity(node) for node in _nodes(ctx, first)}
    for node in _nodes(ctx, second):
        if _identity(node) in left:
            return True
        above = node.getparent()
        while above is not None:
            if _identity(above) in left:
                return True
            above = above.getparent()
    return False


def functions() -> Iterator[Function]:
    """All of this family."""
    path = one(t.XPATH_EXPRESSION)
    boolean = one(t.BOOLEAN)
    fn = f"{V3}function:xpath-node-"
    yield Function(f"{fn}count", (path,), one(t.INTEGER), _count, in_context=True)
    yield Function(f"{fn}equal", (path, path), boolean, _equal, in_context=True)
    yield Function(f"{fn}match", (path, path), boolean, _match, in_context=True)
