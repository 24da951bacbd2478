"""What a function is: its identifier, its static signature, and how it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limen.core.policy.xacml.context import Context
    from limen.core.policy.xacml.static import Type


class Unknown:
    """The place of an argument whose value is not known when the policy is loaded."""

    __slots__ = ()


UNKNOWN = Unknown()


@dataclass(frozen=True, slots=True)
class Function:
    """A first-order function.

    `params` are the types of the arguments; if `repeats`, the last one may be repeated and
    `least` arguments are needed (default: all of `params`). `call` takes the values; it raises
    `EvaluationError`. `lazy`, where given, takes the arguments' evaluators instead (and, or,
    n-of do not evaluate them all). `in_context` puts the context before the values. `prepare` gets
    the literal arguments at load (`UNKNOWN` for others), raises ValueError if no call can succeed,
    and may return a faster `call` for them.
    """

    uri: str
    params: tuple[Type, ...]
    result: Type
    call: Callable[..., Any]
    repeats: bool = False
    least: int | None = None
    lazy: Callable[[Sequence[Callable[[Context], Any]]], Callable[[Context], Any]] | None = None
    in_context: bool = False
    prepare: Callable[[Sequence[Any]], Callable[..., Any] | None] | None = None
    deprecated: bool = False

    def minimum(self) -> int:
        """The least number of arguments."""
        return len(self.params) if self.least is None else self.least

    def accepts(self, count: int) -> bool:
        """Whether `count` arguments may be given."""
        return count >= self.minimum() if self.repeats else count == len(self.params)

    def param(self, index: int) -> Type:
        """The type of argument `index`, from 0."""
        return self.params[min(index, len(self.params) - 1)]

    def signature(self) -> str:
        """For people: `(string, string) -> boolean`."""
        parts = ", ".join(str(p) for p in self.params)
        return f"({parts}{' ...' if self.repeats else ''}) -> {self.result}"
