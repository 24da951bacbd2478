"""XPath 1.0 over the `Content` of a request (core, 7.3.7), with lxml and nothing from outside.

Expressions of a policy are its author's. Those that arrive with a request are limited to location
paths whose cost is bounded (`check_foreign_path`).
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from lxml import etree

from limen.core.policy.xacml.errors import syntax_error
from limen.core.policy.xacml.limits import MAX_XPATH_LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FOREIGN_PATH = 512
"""Characters of an XPath that came with a request."""

_LITERAL = re.compile(r"\"[^\"]*\"|'[^']*'")
_PREFIX = re.compile(r"([^\W\d][\w.-]*):(?!:)")
_FREE_STEP = re.compile(r"//|(?:ancestor|descendant|following|preceding)[a-z-]*\s*::")
_CALL = re.compile(r"([A-Za-z][\w.:-]*)\s*\(")
_CALLED = re.compile(r"(?!(?:text|node|comment|processing-instruction)\s*\()[A-Za-z][\w.:-]*\s*\(")
_ALLOWED_CALLS = frozenset(
    ("text", "node", "comment", "processing-instruction", "position", "last", "name")
)


def from_document(path: str) -> str:
    """`path` with its relative alternatives made to begin at the document node.

    lxml begins them at the root element, XACML at the document node (core, 7.3.7).
    """
    return "|".join(_rooted(part.strip()) for part in _alternatives(path))


def _rooted(part: str) -> str:
    if part.startswith("("):
        end = _closing(part)
        return f"({from_document(part[1:end])}){part[end + 1 :]}"
    if not part or part[0] in "/$\"'" or _CALLED.match(part):
        return part
    return f"/{part}"


def _closing(part: str) -> int:
    """Where the parenthesis that opens `part` is closed."""
    bare = _LITERAL.sub(lambda found: "_" * len(found[0]), part)
    depths = itertools.accumulate((c == "(") - (c == ")") for c in bare)
    return next((i for i, depth in enumerate(depths) if depth == 0), len(part))


def _alternatives(path: str) -> list[str]:
    """The parts of a union, outside of brackets and quotes."""
    bare = _LITERAL.sub(lambda found: "_" * len(found[0]), path)
    depths = itertools.accumulate((c in "([") - (c in ")]") for c in bare)
    ends = [i for i, depth in enumerate(depths) if depth == 0 and bare[i] == "|"]
    return [path[a + 1 : b] for a, b in itertools.pairwise((-1, *ends, len(path)))]


def compile_xpath(path: str, namespaces: Mapping[str, str]) -> etree.XPath:
    """Raises ValueError if `path` is not XPath 1.0 or uses an unknown prefix."""
    if len(path) > MAX_XPATH_LENGTH:
        raise ValueError(f"longer than {MAX_XPATH_LENGTH} characters")
    known = {prefix: uri for prefix, uri in namespaces.items() if prefix and uri}
    for prefix in _PREFIX.findall(_LITERAL.sub("''", path)):
        if prefix not in known and prefix != "xml":
            raise ValueError(f"the prefix {prefix} stands for no namespace")
    try:
        return etree.XPath(path, namespaces=known or None, regexp=False)
    except (etree.XPathError, ValueError) as error:
        raise ValueError(f"not XPath 1.0: {error}") from None


def check_foreign_path(path: str) -> None:
    """Refuse (ValueError) an expression from a request whose cost could not be bounded."""
    if len(path) > MAX_FOREIGN_PATH:
        raise ValueError(f"an XPath in a request has at most {MAX_FOREIGN_PATH} characters")
    bare = _LITERAL.sub("''", path)
    depths = list(itertools.accumulate((c == "[") - (c == "]") for c in bare))
    if any(depth > 1 for depth in depths):
        raise ValueError("an XPath in a request has no predicate within a predicate")
    inside = "".join(c if depth else " " for c, depth in zip(bare, depths, strict=True))
    if len(_FREE_STEP.findall(bare)) > 1 or _FREE_STEP.search(inside):
        raise ValueError("an XPath in a request has at most one step over all depths")
    for call in _CALL.findall(bare):
        if call not in _ALLOWED_CALLS:
            raise ValueError(f"an XPath in a request may not call {call}()")


def evaluate_nodes(expression: etree.XPath, node: Any) -> list[Any]:
    """The nodes that `expression` selects from `node`. Raises `EvaluationError`."""
    try:
        found = expression(node)
    except (etree.XPathError, ValueError) as error:
        raise syntax_error(f"XPath {expression.path}: {error}") from None
    if not isinstance(found, list):
        raise syntax_error(f"XPath {expression.path} does not select nodes")
    return found


def select_nodes(document: Any, path: str, namespaces: Mapping[str, str]) -> list[Any]:
    """The nodes that `path` selects from the document node. Raises `EvaluationError`."""
    try:
        expression = compile_xpath(from_document(path), namespaces)
    except ValueError as error:
        raise syntax_error(str(error)) from None
    return evaluate_nodes(expression, document)


def node_text(node: Any) -> str:
    """The value of a text, attribute, comment or instruction node; others raise ValueError."""
    if isinstance(node, str):
        return str(node)
    if isinstance(node, (etree._Comment, etree._ProcessingInstruction)):  # noqa: SLF001 - lxml gives these types no public name
        return node.text or ""
    raise ValueError("the XPath selects an element; select its text() or an attribute")
