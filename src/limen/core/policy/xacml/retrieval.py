"""Attribute designators and selectors to closures (core, 7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import names
from limen.core.policy.xacml.errors import (
    EvaluationError,
    MissingAttribute,
    PolicyFault,
    missing_attribute,
    syntax_error,
)
from limen.core.policy.xacml.xpath import (
    compile_xpath,
    evaluate_nodes,
    from_document,
    node_text,
    select_nodes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limen.core.policy.xacml import syntax as s
    from limen.core.policy.xacml.context import Context, Key
    from limen.core.policy.xacml.datatypes import DataType, XPathValue

    Bag = Callable[[Context], Sequence[Any]]


def key_of(designator: s.Designator, datatype: DataType) -> Key:
    """Under which a context keeps the bag."""
    return (designator.category, designator.attribute_id, datatype.uri, designator.issuer)


def compile_designator(designator: s.Designator, datatype: DataType) -> Bag:
    """The bag of a named attribute."""
    key = key_of(designator, datatype)
    missing = MissingAttribute(
        designator.category, designator.attribute_id, datatype.uri, designator.issuer or ""
    )

    def optional(ctx: Context) -> Sequence[Any]:
        bag = ctx.bags.get(key)
        return ctx.find(key) if bag is None else bag

    def required(ctx: Context) -> Sequence[Any]:
        bag = ctx.bags.get(key)
        if bag is None:
            bag = ctx.find(key)
        if not bag:
            raise missing_attribute(missing)
        return bag

    return required if designator.must_be_present else optional


def compile_selector(selector: s.Selector, datatype: DataType) -> Bag:
    """The bag of the values that an XPath selects from `Content` (core, 7.3.7)."""
    if not names.is_xpath_1(selector.xpath_version):
        message = f"XPath version {selector.xpath_version} is not supported"
        hint = f"use {names.XPATH_1}"
        raise PolicyFault("xacml-xpath-version", message, selector.line, hint)
    try:
        compile_xpath(selector.path, selector.namespaces)
        relative = selector.context_selector is not None
        path = selector.path if relative else from_document(selector.path)
        expression = compile_xpath(path, selector.namespaces)
    except ValueError as error:
        raise PolicyFault("xacml-bad-xpath", str(error), selector.line) from None
    missing = MissingAttribute(selector.category, selector.path, datatype.uri)
    slot = object()

    def values(ctx: Context) -> Sequence[Any]:
        if not ctx.has_content(selector.category):
            return ()
        node = _start(ctx, selector)
        if node is None:
            return ()
        nodes = evaluate_nodes(expression, node)
        ctx.spend(len(nodes))
        return [_value(node, datatype) for node in nodes]

    def evaluate(ctx: Context) -> Sequence[Any]:
        bag = ctx.memo.get(slot)
        if bag is None:
            try:
                bag = values(ctx)
            except EvaluationError as error:
                bag = error
            ctx.memo[slot] = bag
        if isinstance(bag, EvaluationError):
            raise bag
        if not bag and selector.must_be_present:
            raise missing_attribute(missing)
        found: Sequence[Any] = bag
        return found

    return evaluate


def _start(ctx: Context, selector: s.Selector) -> Any:
    """The node to select from: the document, or what `ContextSelectorId` names; None if not one."""
    document = ctx.document(selector.category)
    if selector.context_selector is None:
        return document
    key = (selector.category, selector.context_selector, names.XPATH_EXPRESSION, None)
    bag = ctx.bags.get(key)
    paths: Sequence[XPathValue] = ctx.find(key) if bag is None else bag
    if len(paths) != 1:
        return None
    nodes = select_nodes(document, paths[0].path, paths[0].namespaces)
    return nodes[0] if len(nodes) == 1 and not isinstance(nodes[0], str) else None


def _value(node: Any, datatype: DataType) -> Any:
    try:
        return datatype.read(node_text(node))
    except ValueError as error:
        raise syntax_error(f"a selected node is no {datatype.name}: {error}") from None
