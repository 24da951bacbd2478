"""The trace of a decision as a tree: what was asked, what came out, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limen.core.policy.xacml.decision import Outcome


@dataclass(slots=True)
class TraceNode:
    """One rule, policy or policy set that was looked at.

    `target` is "match", "no match" or the error; `outcome` the extended decision in words.
    """

    kind: str
    id: str
    target: str = "any"
    condition: str = ""
    outcome: str = ""
    status: str = ""
    children: list[TraceNode] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        data: dict[str, Any] = {"kind": self.kind, "id": self.id, "target": self.target}
        if self.condition:
            data["condition"] = self.condition
        data["decision"] = self.outcome
        if self.status:
            data["status"] = self.status
        if self.children:
            data["children"] = [child.as_data() for child in self.children]
        return data

    def lines(self, indent: int = 0) -> list[str]:
        """For people: one line per node, indented."""
        text = f"{'  ' * indent}{self.outcome:<16} {self.kind} {self.id}"
        details = [f"target: {self.target}"] if self.target != "any" else []
        if self.condition:
            details.append(f"condition: {self.condition}")
        if self.status:
            details.append(self.status)
        text += f"  [{'; '.join(details)}]" if details else ""
        return [text, *(line for child in self.children for line in child.lines(indent + 1))]


class Trace:
    """Collects nodes in the order of evaluation."""

    __slots__ = ("_open", "roots")

    def __init__(self) -> None:
        self.roots: list[TraceNode] = []
        self._open: list[TraceNode] = []

    def enter(self, kind: str, node_id: str) -> TraceNode:
        """A node begins."""
        node = TraceNode(kind, node_id)
        (self._open[-1].children if self._open else self.roots).append(node)
        self._open.append(node)
        return node

    def leave(self, outcome: Outcome) -> Outcome:
        """The node that began last ends with `outcome`."""
        node = self._open.pop()
        node.outcome = outcome.decision.value
        if outcome.status.message:
            node.status = f"{outcome.status.code.rpartition(':')[2]}: {outcome.status.message}"
        return outcome

    def target(self, text: str) -> None:
        """How the target of the open node came out."""
        self._open[-1].target = text

    def condition(self, text: str) -> None:
        """How the condition of the open node came out."""
        self._open[-1].condition = text
