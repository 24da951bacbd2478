"""Which rules and policies of XACML documents some case has reached: they decided something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.xacml import syntax as s
from limen.core.policy.xacml.decision import Extended
from limen.core.policy.xacml.references import within

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.policy.xacml.references import Document
    from limen.core.policy.xacml.trace import TraceNode

Place = tuple[str, str]
"""Policy (`ID vVERSION`) and rule ("": the policy itself)."""

_NOTHING = Extended.NOT_APPLICABLE.value


class Coverage:
    """Collects the traces of evaluations."""

    def __init__(self) -> None:
        self._reached: set[Place] = set()

    def add(self, traces: Iterable[TraceNode]) -> None:
        """What these evaluations reached. A rule is reached if it applied."""
        for trace in traces:
            self._visit(trace, "")

    def _visit(self, node: TraceNode, policy: str) -> None:
        rule = node.kind == "Rule"
        if node.outcome != _NOTHING:
            self._reached.add((policy, node.id) if rule else (node.id, ""))
        for child in node.children:
            self._visit(child, policy if rule else node.id)

    def unreached(self, documents: Iterable[Document]) -> list[tuple[str, str, int]]:
        """Name, file and line of each policy and rule that nothing reached, in order.

        Of a policy that was not reached its rules are not named.
        """
        found: list[tuple[str, str, int]] = []
        for document in documents:
            for policy in within(document):
                name = f"{policy.id} v{policy.version}"
                if (name, "") not in self._reached:
                    found.append((policy.id, document.file, policy.line))
                elif isinstance(policy, s.Policy):
                    found += [
                        (f"{policy.id}/{rule.id}", document.file, rule.line)
                        for rule in policy.rules
                        if (name, rule.id) not in self._reached
                    ]
        return found
