"""Expressions to closures over a `Context`, with their static types checked on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from limen.core.policy.xacml import syntax as s
from limen.core.policy.xacml.datatypes import BY_URI, XPATH_EXPRESSION, DataType, XPathValue
from limen.core.policy.xacml.errors import EvaluationError, PolicyFault
from limen.core.policy.xacml.functions.function import UNKNOWN, Function
from limen.core.policy.xacml.functions.higher import HigherOrder, build, result_type
from limen.core.policy.xacml.functions.library import FUNCTIONS, HIGHER_ORDER, REFUSED
from limen.core.policy.xacml.retrieval import compile_designator, compile_selector
from limen.core.policy.xacml.static import Type, one
from limen.core.policy.xacml.xpath import compile_xpath

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limen.core.policy.xacml.context import Context

    Evaluate = Callable[[Context], Any]


@dataclass(frozen=True, slots=True)
class Compiled:
    """An expression ready to run; `literal` is its value if that is known, else `UNKNOWN`."""

    type: Type
    evaluate: Evaluate
    literal: Any = UNKNOWN


def datatype_of(uri: str, line: int) -> DataType:
    """The datatype named `uri`. Raises `PolicyFault`."""
    found = BY_URI.get(uri)
    if found is None:
        raise PolicyFault("xacml-unknown-datatype", f"datatype {uri} is not known", line)
    return found


def function_of(uri: str, line: int) -> Function | HigherOrder:
    """The function named `uri`. Raises `PolicyFault`."""
    found = FUNCTIONS.get(uri) or HIGHER_ORDER.get(uri)
    if found is None:
        hint = REFUSED.get(uri, "")
        raise PolicyFault("xacml-unknown-function", f"function {uri} is not known", line, hint)
    return found


def compile_expression(
    expression: s.Expression, variable: Callable[[str, int], Compiled]
) -> Compiled:
    """Compile; `variable(id, line)` gives the policy's variables. Raises `PolicyFault`."""
    match expression:
        case s.Literal():
            return compile_literal(expression)
        case s.Designator():
            datatype = datatype_of(expression.datatype, expression.line)
            return Compiled(Type(datatype, bag=True), compile_designator(expression, datatype))
        case s.Selector():
            datatype = datatype_of(expression.datatype, expression.line)
            return Compiled(Type(datatype, bag=True), compile_selector(expression, datatype))
        case s.VariableReference(variable_id, line):
            return variable(variable_id, line)
        case s.FunctionReference(_, line):
            message = "a Function is only the first argument of a higher-order function"
            raise PolicyFault("xacml-misplaced-function", message, line)
        case s.Apply():
            return _compile_apply(expression, variable)
    assert_never(expression)


def compile_literal(literal: s.Literal) -> Compiled:
    """A value that is wrong in the policy is refused, not evaluated."""
    written, line = literal.value, literal.line
    datatype = datatype_of(written.datatype, line)
    try:
        if datatype is XPATH_EXPRESSION:
            value = _xpath_literal(written.text, written.xpath_category, written.namespaces)
        else:
            value = datatype.read(written.text)
    except ValueError as error:
        message = f"{written.text[:60]!r} is no {datatype.name}: {error}"
        raise PolicyFault("xacml-bad-value", message, line) from None
    return Compiled(one(datatype), lambda _: value, value)


def _xpath_literal(text: str, category: str, namespaces: Mapping[str, str]) -> XPathValue:
    if not category:
        raise ValueError("it needs an XPathCategory")
    compile_xpath(text.strip(), namespaces)
    return XPathValue(text.strip(), category, namespaces)


def _compile_apply(apply: s.Apply, variable: Callable[[str, int], Compiled]) -> Compiled:
    function = function_of(apply.function, apply.line)
    if isinstance(function, HigherOrder):
        return _compile_higher(apply, function, variable)
    arguments = [compile_expression(part, variable) for part in apply.arguments]
    check_arguments(function, [argument.type for argument in arguments], apply.line)
    parts = [argument.evaluate for argument in arguments]
    if function.prepare is None:
        call = function.call
    else:
        call = _prepared(function, [argument.literal for argument in arguments], apply.line)
    if function.lazy is not None:
        return Compiled(function.result, function.lazy(parts))
    if function.in_context:
        return Compiled(function.result, _in_context(call, parts))
    return Compiled(function.result, eager(call, parts))


def _prepared(function: Function, literals: Sequence[Any], line: int) -> Callable[..., Any]:
    assert function.prepare is not None  # noqa: S101 - the caller asked
    try:
        return function.prepare(literals) or function.call
    except ValueError as error:
        message = f"{short(function.uri)}: {error}"
        raise PolicyFault("xacml-bad-argument", message, line) from None


def check_arguments(function: Function, types: Sequence[Type], line: int) -> None:
    """Number and types of arguments. Raises `PolicyFault`."""
    name = short(function.uri)
    if not function.accepts(len(types)):
        message = f"{name} takes {function.signature()}, not {len(types)} arguments"
        raise PolicyFault("xacml-wrong-arity", message, line)
    for index, found in enumerate(types):
        wanted = function.param(index)
        if found != wanted:
            message = f"argument {index + 1} of {name} is {found}, it wants {wanted}"
            raise PolicyFault("xacml-wrong-type", message, line)


def short(uri: str) -> str:
    """A function's name without its prefix."""
    return uri.rpartition(":")[2]


def eager(call: Callable[..., Any], parts: Sequence[Evaluate]) -> Evaluate:
    """Evaluate all arguments, then call."""
    match parts:
        case [only]:
            return lambda ctx: call(only(ctx))
        case [first, second]:
            return lambda ctx: call(first(ctx), second(ctx))
    return lambda ctx: call(*[part(ctx) for part in parts])


def _in_context(call: Callable[..., Any], parts: Sequence[Evaluate]) -> Evaluate:
    return lambda ctx: call(ctx, *[part(ctx) for part in parts])


def _compile_higher(
    apply: s.Apply, higher: HigherOrder, variable: Callable[[str, int], Compiled]
) -> Compiled:
    match apply.arguments:
        case (s.FunctionReference(function_id, line), *rest) if rest:
            function = function_of(function_id, line)
        case _:
            message = f"{short(higher.uri)} needs a Function and then its arguments"
            raise PolicyFault("xacml-wrong-arity", message, apply.line)
    if isinstance(function, HigherOrder):
        message = f"{short(higher.uri)} cannot call {short(function.uri)}"
        raise PolicyFault("xacml-wrong-type", message, line)
    arguments = [compile_expression(part, variable) for part in rest]
    types = [argument.type for argument in arguments]
    try:
        result = result_type(higher, function, types)
    except ValueError as error:
        raise PolicyFault("xacml-wrong-type", str(error), apply.line) from None
    bags = [found.bag for found in types]
    parts = [argument.evaluate for argument in arguments]
    return Compiled(result, build(higher, function, parts, bags))


def remembered(compiled: Compiled) -> Compiled:
    """A variable: evaluated at most once for a request, its error too."""
    if compiled.literal is not UNKNOWN:
        return compiled
    slot, evaluate = object(), compiled.evaluate

    def recall(ctx: Context) -> Any:
        if slot not in ctx.memo:
            try:
                ctx.memo[slot] = evaluate(ctx)
            except EvaluationError as error:
                ctx.memo[slot] = error
        value = ctx.memo[slot]
        if isinstance(value, EvaluationError):
            raise value
        return value

    return Compiled(compiled.type, recall)
