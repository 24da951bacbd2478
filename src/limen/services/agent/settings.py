"""What an agent is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.adapters.log_files import Retention

if TYPE_CHECKING:
    from pathlib import Path

    from limen.adapters.runtime_dir import AgentPaths


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent: one mesh on this host.

    `server` overrides the address in the token. `address`: where other hosts reach workloads that
    name none; "" means the address by which this host reaches the server. `auto_stop`: end when
    the last workload of `limen run` has gone. `keep_proxies`: leave Envoys serving at SIGTERM.
    `keep`: how long access logs are kept.
    """

    mesh: str
    paths: AgentPaths
    server: str = ""
    token: str = field(default="", repr=False)
    envoy: str = ""
    workloads_file: Path | None = None
    address: str = ""
    accept_epoch: bool = False
    keep_proxies: bool = False
    auto_stop: bool = False
    drain_s: float = 2.0
    keep: Retention = field(default_factory=Retention)
    notify_fd: int | None = None
