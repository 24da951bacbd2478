"""What Istio's documents mean (`tests/meaning/istio.yaml`), asked of a real Envoy.

Each set is compiled and put in force, and each of its cases is sent: the verdict, the status and
the rule that decided are those that the file says.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.core.tokens.signing import ec_key, sign
from tests.meaning.corpus import Meaning, meanings

from limen.core.compiler.explanation import ANONYMOUS
from limen.core.compiler.graph import MeshGraph
from limen.core.envoy import names
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.plan.node import PortMode
from limen.core.xds.events import Confirmed

from .envoy_harness import DOMAIN, LOOPBACK, Connection, TestMesh, Workload, client_tls, policy

if TYPE_CHECKING:
    from limen.core.compiler.cases import Case
    from limen.core.compiler.explanation import ExplainQuery
    from limen.core.plan.node import InboundPlan

RULE_HEADER = "x-limen-rule"
ITEMS = InstanceName(WorkloadName("default", "default", "items"), "items-1")


async def enforce(workload: Workload, meaning: Meaning) -> InboundPlan:
    """Guard the port as the documents say; the deciding rule is told in a header."""
    kept = workload.plan.inbounds[0]
    graph = MeshGraph("default", meaning.world(kept.port).resources.values())
    (wanted,) = graph.plan(ITEMS).inbounds
    inbound = replace(
        wanted,
        service_address=kept.service_address,
        service_port=kept.service_port,
        rule_header=RULE_HEADER,
        cutover=kept.cutover + 1,
    )
    event = await workload.apply(inbounds=(inbound,))
    assert isinstance(event, Confirmed), (meaning.title, event)
    return inbound


def identity(caller: str) -> SpiffeId:
    if caller.startswith("spiffe://"):
        caller = "/".join(caller.split("/")[4:7:2])
    namespace, _, account = caller.rpartition("/")
    return SpiffeId(DOMAIN, namespace or "default", account)


class Client:
    """Sends cases; one connection for each caller and address, while a set is in force."""

    def __init__(self, mesh: TestMesh, inbound: InboundPlan) -> None:
        self.mesh, self.inbound = mesh, inbound
        self.connections: dict[tuple[str, str], Connection] = {}

    async def ask(self, query: ExplainQuery) -> tuple[int, str]:
        """Status (0: no connection) and the deciding rule."""
        try:
            connection = await self._connection(query.caller, query.source_ip or LOOPBACK)
            answer = await connection.request(
                query.method,
                query.path,
                [(k, v) for k, v in query.headers if k != "host"] + authorization(query),
                host=dict(query.headers).get("host", "items.mesh"),
            )
        except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
            return 0, ""
        if answer.headers.get("connection") == "close":
            await self.connections.pop((query.caller, query.source_ip or LOOPBACK)).close()
        return answer.status, answer.headers.get(RULE_HEADER, "")

    async def _connection(self, caller: str, source: str) -> Connection:
        key = (caller, source)
        if key not in self.connections:
            plain = caller == ANONYMOUS or self.inbound.mode is PortMode.DISABLE
            tls = None if plain else client_tls(self.mesh.authority.issue(identity(caller)))
            self.connections[key] = Connection(
                *await asyncio.open_connection(
                    LOOPBACK,
                    self.inbound.port,
                    ssl=tls,
                    server_hostname=None if plain else ITEMS.workload.dns_san,
                    local_addr=(source, 0),
                )
            )
        return self.connections[key]

    async def close(self) -> None:
        for connection in self.connections.values():
            await connection.close()


def authorization(query: ExplainQuery) -> list[tuple[str, str]]:
    if query.claims is None:
        return []
    claims: dict[str, Any] = {"exp": int(time.time()) + 600, **query.claims}
    return [
        ("authorization", f"Bearer {sign({'alg': 'ES256', 'kid': '1'}, claims, ec_key(), 'ES256')}")
    ]


def problem(case: Case, status: int, told: str) -> str:
    """What is not as the case says, "" if nothing."""
    if (status == 200) != case.allowed or case.status not in (None, status):
        return f"status {status}, rule {told!r}"
    name, _, index = case.rule.rpartition("/")
    if case.rule == "none":
        unnamed = ("", names.NO_RULE, "none", "rbac_access_denied_matched_policy[none]")
        decided = told.endswith("default-allow") or told in unnamed
        return "" if decided or status in (0, 401) else f"the rule {told!r} decided"
    place = f"/{name}/{int(index):05d}" if name else ""
    return "" if place in told else f"the rule {told!r} decided"


async def test_documents_mean_for_envoy_what_is_written_beside_them() -> None:
    problems: list[str] = []
    asked = 0
    async with TestMesh() as mesh:
        items = await mesh.start("items", policy=policy())
        for meaning in meanings():
            inbound = await enforce(items, meaning)
            client = Client(mesh, inbound)
            for case in meaning.cases_at(inbound.port):
                async with asyncio.timeout(20):
                    wrong = problem(case, *await client.ask(case.query))
                asked += 1
                if wrong:
                    problems.append(f"{meaning.title} / {case.name}: {wrong}")
            await client.close()
    assert not problems, "\n".join(problems)
    assert asked >= 250
