"""The Multiple Decision Profile: one request that stands for several, and their combination.

Supported: `MultiRequests` (2.4), repeated categories (2.3), nodes selected by an XPath in the
attribute `multiple:content-selector` (2.2), combined decisions (3).
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from limen.core.policy.xacml import names
from limen.core.policy.xacml.context import parse_content
from limen.core.policy.xacml.decision import OK, Decision, Status
from limen.core.policy.xacml.errors import processing_error, syntax_error
from limen.core.policy.xacml.limits import (
    MAX_INDIVIDUAL_REQUESTS,
    MAX_INDIVIDUAL_VALUES,
    MAX_REQUEST_VALUES,
)
from limen.core.policy.xacml.request import Attribute, Attributes, AttributeValue, Result
from limen.core.policy.xacml.xpath import check_foreign_path, select_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from limen.core.policy.xacml.request import XacmlRequest

    Entities = tuple[Attributes, ...]


def individual_requests(request: XacmlRequest) -> list[Entities]:
    """The attributes of every individual request, in order. Raises `EvaluationError`."""
    if _is_single(request):
        return [request.attributes]
    found: list[Entities] = []
    values = 0
    for entities in _by_reference(request):
        for single in _by_category(entities):
            for individual in _by_content(single):
                found.append(individual)
                values += sum(len(a.values) for e in individual for a in e.attributes)
                if len(found) > MAX_INDIVIDUAL_REQUESTS or values > MAX_INDIVIDUAL_VALUES:
                    message = "the request stands for too many decisions, or too large ones"
                    raise processing_error(message)
    return found


def _is_single(request: XacmlRequest) -> bool:
    """Whether the request asks for one decision. Raises `EvaluationError` if it is too large."""
    single = not request.multi_requests
    categories: set[str] = set()
    values = 0
    for entity in request.attributes:
        categories.add(entity.category)
        for attribute in entity.attributes:
            values += len(attribute.values)
            if attribute.id == names.MULTIPLE_CONTENT_SELECTOR:
                single = False
    if values > MAX_REQUEST_VALUES:
        raise processing_error(f"the request has more than {MAX_REQUEST_VALUES} values")
    return single and len(categories) == len(request.attributes)


def _by_reference(request: XacmlRequest) -> Iterator[Entities]:
    if not request.multi_requests:
        yield request.attributes
        return
    known = {entity.xml_id: entity for entity in request.attributes if entity.xml_id}
    for references in request.multi_requests:
        missing = [reference for reference in references if reference not in known]
        if missing:
            raise syntax_error(f"no attributes have the identifier {missing[0]}")
        yield tuple(known[reference] for reference in references)


def _by_category(entities: Entities) -> Iterator[Entities]:
    """Each combination with one entity for every category."""
    by_category: dict[str, list[Attributes]] = {}
    for entity in entities:
        by_category.setdefault(entity.category, []).append(entity)
    if len(by_category) == len(entities):
        yield entities
        return
    yield from itertools.product(*by_category.values())


def _by_content(entities: Entities) -> Iterator[Entities]:
    """Each combination of the nodes that the content selectors choose."""
    if not any(a.id == names.MULTIPLE_CONTENT_SELECTOR for e in entities for a in e.attributes):
        yield entities
        return
    yield from itertools.product(*(_selected(entity) for entity in entities))


def _selected(entity: Attributes) -> list[Attributes]:
    wanted = [a for a in entity.attributes if a.id == names.MULTIPLE_CONTENT_SELECTOR]
    if not wanted:
        return [entity]
    values = [value for attribute in wanted for value in attribute.values]
    if len(values) != 1 or entity.content is None:
        raise syntax_error("multiple:content-selector needs one XPath, and a Content")
    (selector,) = values
    try:
        check_foreign_path(selector.text)
    except ValueError as error:
        raise syntax_error(str(error)) from None
    document = parse_content(entity.content)
    nodes = select_nodes(document, selector.text.strip(), selector.namespaces)
    rest = tuple(a for a in entity.attributes if a.id != names.MULTIPLE_CONTENT_SELECTOR)
    found = []
    for node in nodes[: MAX_INDIVIDUAL_REQUESTS + 1]:
        if isinstance(node, str):
            raise syntax_error("multiple:content-selector selects elements only")
        prefixes = {prefix: uri for prefix, uri in node.nsmap.items() if prefix}
        path = AttributeValue(
            document.getpath(node), names.XPATH_EXPRESSION, entity.category, prefixes
        )
        included = any(attribute.include_in_result for attribute in wanted)
        chosen = Attribute(names.CONTENT_SELECTOR, (path,), include_in_result=included)
        found.append(replace(entity, attributes=(*rest, chosen)))
    return found


def combine_results(results: Sequence[Result], *, return_policies: bool) -> Result:
    """One result for all (section 3): what all say, else Indeterminate.

    Obligations and advice cannot be combined: with any of them the result is Indeterminate.
    """
    decisions = {result.decision for result in results}
    policies = None
    if return_policies:
        policies = tuple(dict.fromkeys(p for r in results for p in r.policies or ()))
    if any(result.obligations for result in results):
        reason = "individual decisions have obligations or advice: they cannot be combined"
    elif len(decisions) > 1:
        reason = "the individual decisions differ"
    else:
        (decision,) = decisions
        status = results[0].status if decision is Decision.INDETERMINATE else OK
        return Result(decision, status, policies=policies)
    status = Status(names.STATUS_PROCESSING_ERROR, reason)
    return Result(Decision.INDETERMINATE, status, policies=policies)
