"""Expressions of a rule that are never true, as far as the text alone shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Chain = Callable[[dict[str, Any]], tuple[tuple[str, ...], bool]]

_SCALARS = ("Bool", "Number", "String", "Null")
_UNKNOWN = object()


def impossible(item: dict[str, Any], chain: Chain) -> int:
    """The line of an expression without which the definition does not hold; 0: there is none.

    A definition with `else` has another way. `chain` gives the names of a reference.
    """
    bodies = item.get("Spec", {}).get("bodies", ())
    if len(bodies) != 1:
        return 0
    equal: dict[tuple[str, ...], Any] = {}
    for statement in bodies[0]["query"]["stmts"]:
        expression = statement["literal"].get("Expr", {}).get("expr")
        if expression is not None and _is_false(expression, equal, chain):
            return int(statement["span"]["line"])
    return 0


def _is_false(expression: dict[str, Any], equal: dict[tuple[str, ...], Any], chain: Chain) -> bool:
    """False itself, two values that differ, or a reference that would equal two of them."""
    if _constant(expression) is False:
        return True
    compared = expression.get("BoolExpr")
    if compared is None or compared["op"] != "Eq":
        return False
    left, right = _constant(compared["lhs"]), _constant(compared["rhs"])
    if left is not _UNKNOWN and right is not _UNKNOWN:
        return type(left) is not type(right) or left != right
    for value, other in ((left, compared["rhs"]), (right, compared["lhs"])):
        if value is _UNKNOWN:
            continue
        path, whole = chain(other)
        if whole and path[0] == "input":
            before = equal.setdefault(path, value)
            return type(before) is not type(value) or before != value
    return False


def _constant(expression: dict[str, Any]) -> Any:
    for kind in _SCALARS:
        if kind in expression:
            return expression[kind].get("value")
    return _UNKNOWN
