"""`security.istio.io` PeerAuthentication: whether a port wants mutual TLS.

Of several that concern a workload the narrowest scope counts (workload, namespace, mesh); of equals
the oldest (`created`, then the name that sorts first). `UNSET` inherits from the next wider scope.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.selector import Scope


class MtlsMode(Enum):
    """What a port accepts."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True)
class PeerAuthentication:
    """`port_modes`: by the workload's (application) port, sorted, only with a selector.

    `created`: the time that the document states (`2024-01-01T00:00:00.000000Z`), "" if none.
    """

    scope: Scope
    mode: MtlsMode = MtlsMode.UNSET
    port_modes: tuple[tuple[int, MtlsMode], ...] = ()
    created: str = ""
