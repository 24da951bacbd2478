"""Expressions of CEL as syntax trees: Envoy refuses their text form. Only what is needed here."""

from __future__ import annotations

from functools import reduce

from google.api.expr.v1alpha1 import syntax_pb2

Expr = syntax_pb2.Expr


def name(identifier: str) -> Expr:
    """A variable."""
    return Expr(ident_expr=Expr.Ident(name=identifier))


def field(operand: Expr, key: str) -> Expr:
    """`operand.key`."""
    return Expr(select_expr=Expr.Select(operand=operand, field=key))


def item(operand: Expr, key: str) -> Expr:
    """`operand["key"]`; an error if it is absent."""
    return call("_[_]", operand, text(key))


def text(value: str) -> Expr:
    """A constant."""
    return Expr(const_expr=syntax_pb2.Constant(string_value=value))


def number(value: float) -> Expr:
    """A constant of type double."""
    return Expr(const_expr=syntax_pb2.Constant(double_value=value))


def integer(value: int) -> Expr:
    """A constant of type int."""
    return Expr(const_expr=syntax_pb2.Constant(int64_value=value))


def true() -> Expr:
    """A constant."""
    return Expr(const_expr=syntax_pb2.Constant(bool_value=True))


def call(function: str, *arguments: Expr) -> Expr:
    """A function or operator by its internal name."""
    return Expr(call_expr=Expr.Call(function=function, args=arguments))


def has(operand: Expr, key: str) -> Expr:
    """`"key" in operand`."""
    return call("@in", text(key), operand)


def lacks(operand: Expr, key: str) -> Expr:
    """`!("key" in operand)`."""
    return call("!_", has(operand, key))


def either(first: Expr, second: Expr) -> Expr:
    """`first || second`."""
    return call("_||_", first, second)


def every(*parts: Expr) -> Expr:
    """`a && b && …`."""
    return reduce(lambda left, right: call("_&&_", left, right), parts)
