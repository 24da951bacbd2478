"""What a token service is told when it starts. A value: nothing here reads the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.adapters.judged_https import FetchRules

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Settings of one token service.

    `names`: host names and addresses by which it is reached; the first one is in its `url`.
    `issuer`: what its tokens say in `iss`; empty: its address. `rate_per_s` and `burst`: per
    client; a tenth of it per address for those without a certificate. `max_stale_s`: how long it
    goes on without hearing of the server. `key_life_s`: how long one key signs; `key_lead_s`: how
    long a key is published before it signs.
    """

    data: Path
    host: str
    port: int
    names: tuple[str, ...]
    issuer: str = ""
    fetch: FetchRules = field(default_factory=FetchRules)
    rate_per_s: float = 2000.0
    burst: int = 4000
    max_stale_s: float = 24 * 3600.0
    key_life_s: float = 7 * 86400.0
    key_lead_s: float = 600.0
    max_connections: int = 4096
