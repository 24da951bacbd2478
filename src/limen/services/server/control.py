"""The parts of one running server, wired. Handlers get this value and nothing global."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.errors import NotFound
from limen.services.server.credentials import Credentials
from limen.services.server.meshes import exists, mesh_of, settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.adapters.clock import Clock
    from limen.adapters.store import AuditEntry, Store, Write
    from limen.core.model.resource import ResourceKey
    from limen.services.server.authority import Authority
    from limen.services.server.compile_loop import CompileLoop
    from limen.services.server.joining import Joining
    from limen.services.server.key_sets import KeySets
    from limen.services.server.metrics import Metrics
    from limen.services.server.mirror import Mirror
    from limen.services.server.proxies import Proxies
    from limen.services.server.settings import ServerSettings
    from limen.services.server.watching import Watchers


@dataclass(slots=True)
class Control:
    """One server. `writing` is held from reading a snapshot to the commit that builds on it."""

    settings: ServerSettings
    store: Store
    clock: Clock
    mirror: Mirror
    loop: CompileLoop
    proxies: Proxies
    authority: Authority
    joining: Joining
    metrics: Metrics
    watchers: Watchers
    accepting: bool = True
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    key_sets: KeySets | None = None
    credentials: Credentials = field(default_factory=Credentials)
    confirmed: dict[str, int] = field(default_factory=dict)
    """By role: the revision up to which a decision point that runs apart has what was published."""
    refused_secrets: dict[ResourceKey, str] = field(default_factory=dict)
    """Why a Secret was refused after the one that serves."""
    api_url: str = ""
    admin_token: str = field(default="", repr=False)
    node_address: str = ""

    async def commit(self, writes: Sequence[Write], audit: Sequence[AuditEntry]) -> int:
        """`store.commit`, measured; the mirror has it when this returns."""
        outcome = "refused"
        try:
            with self.metrics.commit_s.time():
                revision = await self.store.commit(writes, audit)
            outcome = "done"
        finally:
            self.metrics.commits.labels(outcome=outcome).inc()
        await self.mirror.reached(revision)
        return revision

    async def ensure_mesh(self, name: str) -> None:
        """The mesh has its authority, and its proxies the bundle. Errors: `Authority`."""
        snapshot = self.mirror.snapshot
        if not exists(snapshot, name):
            raise NotFound(f"there is no mesh {name}", hint="apply the Mesh first")
        await self.authority.ensure_mesh(mesh_of(snapshot, name), settings_of(snapshot, name))
        self.loop.set_bundle(name, await self.authority.bundle_pem(name))
