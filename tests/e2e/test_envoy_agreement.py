"""Random policies and requests: `decide()` and a real Envoy give the same verdict."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limen.core.model.names import SpiffeId
from limen.core.model.workload import Protocol
from limen.core.plan.node import InboundPlan, PortMode
from limen.core.policy.decide import decide
from limen.core.policy.decision import Request
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Condition,
    Effect,
    Header,
    Layer,
    LayerKind,
    Method,
    Not,
    Path,
    Policy,
    Port,
    Principal,
)
from limen.core.xds.events import Confirmed

from .envoy_harness import (
    DOMAIN,
    LOOPBACK,
    Connection,
    TestMesh,
    Workload,
    client_tls,
    free_port,
    policy,
    rule,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CALLERS = (
    SpiffeId(DOMAIN, "default", "users"),
    SpiffeId(DOMAIN, "default", "users2"),
    SpiffeId(DOMAIN, "shop", "users"),
    None,
)
METHODS = ("GET", "POST", "DELETE")
PATHS = ("/", "/a", "/a/", "/a/b", "/ab", "/A", "/a;x/b", "/~a")
VALUES = ("\xff", "gold", "GOLD", "gold,silver", "silver", "")

PRINCIPAL_TEXTS = (
    *(str(c) for c in CALLERS if c),
    f"spiffe://{DOMAIN}",
    f"spiffe://{DOMAIN}/ns/default",
    f"spiffe://{DOMAIN}/ns/default/sa/u",
    "/sa/users",
    "spiffe://",
    "users.default.mesh",
    "",
)


def matches(texts: tuple[str, ...]) -> st.SearchStrategy[StringMatch]:
    return st.builds(StringMatch, st.sampled_from(How), st.sampled_from(texts), st.booleans())


def leaves(ports: tuple[int, ...]) -> st.SearchStrategy[Condition]:
    return st.one_of(
        st.just(Always()),
        st.just(Authenticated()),
        st.builds(Principal, matches(PRINCIPAL_TEXTS)),
        st.builds(Principal, matches(PRINCIPAL_TEXTS)),
        st.builds(Method, matches(("GET", "G", "T", "get", ""))),
        st.builds(Path, matches(("/", "/a", "/a/", "a", "b", "/A/", ""))),
        st.builds(Header, st.just("x-tier"), matches(("gold", "g", "d", "silver", ""))),
        st.builds(Port, st.sampled_from((*ports, 1))),
    )


def conditions(ports: tuple[int, ...]) -> st.SearchStrategy[Condition]:
    def combined(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
        some = st.lists(inner, max_size=3).map(tuple)
        return st.one_of(st.builds(AllOf, some), st.builds(AnyOf, some), st.builds(Not, inner))

    return st.recursive(leaves(ports), combined, max_leaves=6)


def policies(ports: tuple[int, ...]) -> st.SearchStrategy[Policy]:
    effects = st.sampled_from((Effect.ALLOW, Effect.ALLOW, Effect.DENY))
    rules = st.lists(st.builds(rule, effects, conditions(ports)), max_size=4).map(tuple)
    layer = st.builds(Layer, st.just(LayerKind.PERMISSION), rules, st.booleans(), rules)
    layers = st.lists(layer, max_size=2).map(tuple)
    return st.builds(Policy, layers, st.booleans())


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(CALLERS),
        st.sampled_from(METHODS),
        st.sampled_from(PATHS),
        st.lists(st.sampled_from(VALUES), max_size=2).map(tuple),
    ),
    min_size=4,
    max_size=8,
)


class Edge:
    """One Envoy with a guarded port and the same port in plain text, and a client of each."""

    def __init__(self, mesh: TestMesh, workload: Workload) -> None:
        self.mesh, self.workload = mesh, workload
        self.connections: dict[SpiffeId | None, Connection] = {}
        self.requests = 0
        self.denied = 0

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(inbound.port for inbound in self.workload.plan.inbounds)

    @classmethod
    async def start(cls, mesh: TestMesh) -> Edge:
        workload = await mesh.start("items", policy=policy())
        assert workload.application is not None
        service = workload.application.port
        plain = InboundPlan(
            LOOPBACK, free_port(), LOOPBACK, service, Protocol.HTTP, policy(), mode=PortMode.DISABLE
        )
        await workload.apply(inbounds=(*workload.plan.inbounds, plain))
        return cls(mesh, workload)

    async def apply(self, wanted: Policy) -> None:
        inbounds = tuple(replace(i, policy=wanted) for i in self.workload.plan.inbounds)
        event = await self.workload.apply(inbounds=inbounds)
        assert isinstance(event, Confirmed), event

    async def ask(
        self, caller: SpiffeId | None, method: str, path: str, values: tuple[str, ...]
    ) -> tuple[bool, int]:
        """Whether the request came through, and at which port."""
        port = self.ports[1] if caller is None else self.ports[0]
        if caller not in self.connections:
            tls = None if caller is None else client_tls(self.mesh.authority.issue(caller))
            self.connections[caller] = await Connection.open(port, tls)
        answer = await self.connections[caller].request(
            method, f"{path}?q=/b", [("x-tier", value) for value in values]
        )
        assert answer.status in (200, 403), answer
        self.requests += 1
        self.denied += answer.status == 403
        return answer.status == 200, port


def test_envoy_and_decide_agree() -> None:
    with asyncio.Runner() as runner:
        mesh = TestMesh()
        try:
            edge = runner.run(Edge.start(mesh))
            agreement(runner, edge)()
            assert 0.1 < edge.denied / edge.requests < 0.9, "the cases say nothing"
        finally:
            runner.run(mesh.__aexit__())


async def test_each_value_of_a_repeated_header_counts() -> None:
    """2020-25017, 2021-32777, 2026-26308: first only, last only, or joined values."""
    caller = CALLERS[0]
    spellings = (("gold",), ("gold", "silver"), ("silver", "gold"), ("", "gold"), ("gold,silver",))
    spellings += ((), ("",), ("", ""), ("silver",), ("\xff",), ("", "\xff"), ("\xff", "gold"))
    matchers = [StringMatch(how, value) for how in How for value in ("gold", "g", "d", "")]
    async with TestMesh() as mesh:
        edge = await Edge.start(mesh)
        for match in matchers:
            for effect in (Effect.ALLOW, Effect.DENY):
                header = rule(effect, Header("x-tier", match))
                wanted = (
                    policy(header, rule(Effect.ALLOW, Always()))
                    if effect is Effect.DENY
                    else policy(header)
                )
                await edge.apply(wanted)
                for values in spellings:
                    seen, port = await edge.ask(caller, "GET", "/", values)
                    headers = {"x-tier": values} if values else {}
                    decision = decide(wanted, Request(caller, "GET", "/", headers, port))
                    assert decision.allowed == seen, (decision, values)


def agreement(runner: asyncio.Runner, edge: Edge) -> Callable[[], None]:
    @settings(
        max_examples=300,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(policies(edge.ports), REQUESTS)
    def agree(wanted: Policy, requests: list) -> None:
        runner.run(edge.apply(wanted))
        for caller, method, path, values in requests:
            seen, port = runner.run(edge.ask(caller, method, path, values))
            headers = {"x-tier": values} if values else {}
            decision = decide(wanted, Request(caller, method, path, headers, port))
            assert decision.allowed == seen, (decision, caller, method, path, values)

    return agree
