"""How often one node may ask for certificates: each costs a signature and a place in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.rate import RateLimit
from limen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limen.services.server.joining import Node

LIMITS: Mapping[str, tuple[float, int]] = {
    "Sign": (20.0, 400),
    "Renew": (0.2, 10),
    "Entitle": (1.0, 100),
    "Audit": (10.0, 200),
}
"""Method: a second on average, and at once. A node that starts 400 workloads is not slowed down."""


class CallLimits:
    """One bucket per node and method; ten times as much for all nodes together."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._limits = {method: RateLimit(*limit) for method, limit in LIMITS.items()}

    def take(self, method: str, node: Node) -> None:
        """Count one call. Raises Unavailable (`too-many-requests`): the agent tries again."""
        try:
            self._limits[method].take(node.node_id, self._now_s())
        except Unavailable as error:
            raise Unavailable(
                f"node {node.node_id} calls {method} too often", code=error.code, hint=error.hint
            ) from None
