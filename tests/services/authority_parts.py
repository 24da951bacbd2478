"""An authority over a memory store and a clock that stands, for tests."""

import random
from dataclasses import dataclass, field

from limen.adapters.clock import FakeClock
from limen.adapters.keys import MemoryKek
from limen.adapters.store_memory import MemoryStore
from limen.core.model.mesh import Mesh
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.services.server.authority import Authority

WORKLOAD = WorkloadName("default", "default", "items")
INSTANCE = InstanceName(WORKLOAD, "1")
SPIFFE_ID = SpiffeId("default.mesh.local", "default", "items")
DNS = (WORKLOAD.dns_san,)
DEFAULT = Mesh("default")
KEK_BYTES = b"k" * 32
DAY = 86400


class WatchedKek(MemoryKek):
    """Remembers what it was asked for."""

    def __init__(self, key: bytes = KEK_BYTES) -> None:
        super().__init__(key)
        self.asked: list[bytes] = []

    async def key_for(self, context: bytes) -> bytes:
        self.asked.append(context)
        return await super().key_for(context)

    def asked_for_root_keys(self) -> int:
        return sum(context.endswith(b"\0root-key") for context in self.asked)


class CountingStore(MemoryStore):
    """Counts commits; fails or waits when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0
        self.error = None
        self.gate = None

    async def commit(self, writes, audit):
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.commits += 1
        return await super().commit(writes, audit)


@dataclass
class Parts:
    store: CountingStore = field(default_factory=CountingStore)
    clock: FakeClock = field(default_factory=FakeClock)
    kek: WatchedKek = field(default_factory=WatchedKek)

    async def authority(self, seed: int = 1, mesh: Mesh | None = DEFAULT) -> Authority:
        made = Authority(self.store, self.kek, self.clock, random.Random(seed))  # noqa: S311 - tests repeat
        await made.start()
        if mesh is not None:
            await made.ensure_mesh(mesh)
        return made

    async def state(self) -> tuple:
        """Everything that is stored, to compare."""
        records, revision = await self.store.list()
        return revision, [(r.key, r.revision) for r in records]
