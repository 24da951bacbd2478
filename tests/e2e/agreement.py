"""What tests of agreement share: requests as people would never write them, and the real edge.

`Edge` is one Envoy with a guarded port and one for plaintext too; `ask` sends a request there and
says what became of it and which rule decided.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from tests.core.tokens.signing import ec_key, jwk, sign

from limen.core.envoy import names
from limen.core.envoy.resources import shape_of
from limen.core.model.names import SpiffeId
from limen.core.model.provider import ExtensionProvider, ProviderProtocol, Stage
from limen.core.plan.node import JwtPlan, PortMode
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    AnyOf,
    Effect,
    Header,
    Layer,
    LayerKind,
    Policy,
    Rule,
    RuleRef,
    Sni,
)
from limen.core.xds.events import Confirmed

from .envoy_harness import (
    DOMAIN,
    LOOPBACK,
    Application,
    Connection,
    Received,
    TestMesh,
    Workload,
    client_tls,
    free_port,
    policy,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.core.plan.node import InboundPlan

RULE_HEADER = "x-limen-rule"
ISSUER = "https://login.example.com/a"

CALLERS = (
    SpiffeId(DOMAIN, "default", "users"),
    SpiffeId(DOMAIN, "default", "users2"),
    SpiffeId(DOMAIN, "shop", "users"),
    None,
)
METHODS = ("GET", "POST", "DELETE", "PATCH")
PATHS = (
    "/", "/a", "/a/", "/a/b", "/ab", "/A", "/a;x/b", "/~a", "/a/*/b", "/a//b", "/a/./b", "/a/../b",
    "/%61", "/a%2fb", "/a/b/c/d", "/a/..;/b", "/x/%2e%2e;p/b", "/a?q=/b", "/a\\b", "/a/b;p=1?/a",
)  # fmt: skip
VALUES = ("\xff", "gold", "GOLD", "gold,silver", "silver", "")
HOSTS = ("items.mesh", "ITEMS.mesh", "items.mesh:{port}", "items.mesh:1", "xitems.mesh", "[::1]:80",
         "items.mesh.")  # fmt: skip
SOURCES = ("127.0.0.1", "127.0.0.2", "127.8.0.1")
REACHED = ("127.0.0.1", "127.0.0.3")
SERVER_NAMES = ("items.default.mesh", "other.mesh")
CLAIM_VALUES: tuple[Any, ...] = (
    "a", "A", "ab", "", ["a"], ["b", "a"], [], ["", 1], [["a"]], {"x": "a"}, {"x": ["a"]},
    {"x": {"x": "a"}}, 1, True, None, "a b", "\xe4\n",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request as it is sent. `claims` None: no token; `bad`: a token that is not accepted."""

    caller: SpiffeId | None
    method: str
    target: str
    values: tuple[str, ...]
    host: str
    source: str
    reached: str
    server_name: str
    claims: dict[str, Any] | None
    bad: bool


TOKENS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "sub": st.sampled_from(("bob", "b/c", "")),
            "g": st.sampled_from(CLAIM_VALUES),
            "scope": st.sampled_from(("a b", "ab", "b", " a", ["a"])),
        },
    ),
)
REQUESTS = st.lists(
    st.builds(
        Asked,
        st.sampled_from(CALLERS),
        st.sampled_from(METHODS),
        st.sampled_from(PATHS),
        st.lists(st.sampled_from(VALUES), max_size=2).map(tuple),
        st.sampled_from(HOSTS),
        st.sampled_from(SOURCES),
        st.sampled_from(REACHED),
        st.sampled_from(SERVER_NAMES),
        TOKENS,
        st.sampled_from((False,) * 9 + (True,)),
    ),
    min_size=8,
    max_size=12,
)


CONSENTS, REFUSES, GONE = "consents", "refuses", "gone"
"""Providers of CUSTOM rules by what they do; nothing is known of the last."""


class Providers:
    """One that consents to everything and one that refuses it."""

    def __init__(self) -> None:
        self._running = {CONSENTS: Application(_consent), REFUSES: Application(_refuse)}

    async def start(self) -> tuple[ExtensionProvider, ...]:
        """Sorted by name; asked after tokens, so that rules may look at them."""
        for application in self._running.values():
            await application.start()
        return tuple(
            ExtensionProvider(
                name,
                ProviderProtocol.HTTP,
                address=LOOPBACK,
                port=application.port,
                stage=Stage.AFTER_TOKENS,
                timeout_s=20,
            )
            for name, application in sorted(self._running.items())
        )

    def asked(self) -> list[int]:
        """How often each was."""
        return [len(application.requests) for application in self._running.values()]

    async def stop(self) -> None:
        for application in self._running.values():
            await application.stop()


async def _consent(_: Received, connection: Connection) -> None:
    connection.writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n")


async def _refuse(_: Received, connection: Connection) -> None:
    connection.writer.write(b"HTTP/1.1 403 X\r\ncontent-length: 0\r\n\r\n")


@dataclass(frozen=True)
class Seen:
    status: int
    rule: str
    port: int


class Edge:
    """One Envoy with a guarded port and one for plaintext too, and clients of each."""

    def __init__(self, mesh: TestMesh, workload: Workload) -> None:
        self.mesh, self.workload = mesh, workload
        self.connections: dict[tuple[object, ...], Connection] = {}
        self.statuses: dict[int, int] = {}
        self.rules: set[str] = set()

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(inbound.port for inbound in self.workload.plan.inbounds)

    @classmethod
    async def start(cls, mesh: TestMesh, providers: tuple[ExtensionProvider, ...] = ()) -> Edge:
        workload = await mesh.start("items", policy=completed(policy()))
        keys = json.dumps({"keys": [jwk(ec_key(), kid="1", alg="ES256")]})
        strict = replace(
            workload.plan.inbounds[0],
            address="0.0.0.0",  # noqa: S104 - any loopback address is reached
            tokens=(JwtPlan(ISSUER, jwks=keys),),
            rule_header=RULE_HEADER,
            providers=providers,
        )
        mixed = replace(strict, port=free_port(), mode=PortMode.PERMISSIVE)
        await workload.apply(inbounds=(strict, mixed))
        return cls(mesh, workload)

    async def apply(self, wanted: Policy) -> None:
        """The ports' listeners stay as they are, whatever the policy needs of them."""
        await self.enforce(
            tuple(replace(i, policy=completed(wanted)) for i in self.workload.plan.inbounds)
        )

    async def enforce(self, inbounds: tuple[InboundPlan, ...]) -> None:
        """Envoy has confirmed them. Connections to a listener that is another one now are left."""
        before = shape_of(self.workload.plan)
        event = await self.workload.apply(inbounds=inbounds)
        assert isinstance(event, Confirmed), event
        if shape_of(self.workload.plan) != before:
            for connection in self.connections.values():
                connection.writer.transport.abort()
            self.connections.clear()

    async def ask(self, asked: Asked) -> Seen:
        """What becomes of the request, and at which port."""
        port = self.ports[-1 if asked.caller is None else 0]
        async with asyncio.timeout(10):
            connection = await self._connection(asked, port)
        headers = [("x-tier", value) for value in asked.values]
        if asked.claims is not None:
            headers.append(("authorization", f"Bearer {token(asked)}"))
        async with asyncio.timeout(10):
            answer = await connection.request(
                asked.method, asked.target, headers, host=asked.host.format(port=port)
            )
        if answer.headers.get("connection") == "close":
            connection.writer.transport.abort()
            self.connections = {k: c for k, c in self.connections.items() if c is not connection}
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        found = answer.headers.get(RULE_HEADER, "")
        return Seen(answer.status, found, port)

    async def _connection(self, asked: Asked, port: int) -> Connection:
        key = (asked.caller, asked.source, asked.reached, asked.server_name)
        if key not in self.connections:
            self.connections[key] = await self._connect(asked, port)
        return self.connections[key]

    async def _connect(self, asked: Asked, port: int) -> Connection:
        """A listener that takes another's place resets what still waits at the old one."""
        tls = asked.caller and client_tls(self.mesh.authority.issue(asked.caller))
        while True:
            try:
                return Connection(
                    *await asyncio.open_connection(
                        asked.reached,
                        port,
                        ssl=tls,
                        server_hostname=asked.server_name if tls else None,
                        local_addr=(asked.source, 0),
                    )
                )
            except ConnectionError:
                await asyncio.sleep(0.05)  # the caller's time limit ends it


def completed(wanted: Policy) -> Policy:
    some = StringMatch(How.PRESENT)
    nobody = AllOf((AnyOf(()), Sni(some), Header("x-tier", some)))
    never = Rule(Effect.AUDIT, nobody, "never", RuleRef("", "", "", "", 0))
    return replace(wanted, layers=(*wanted.layers, Layer(LayerKind.AUTHORIZATION, (never,), False)))


def token(asked: Asked) -> str:
    claims = {"iss": ISSUER, "exp": int(time.time()) + 600, **(asked.claims or {})}
    key = ec_key(number=2) if asked.bad else ec_key()
    return sign({"alg": "ES256", "kid": "1"}, claims, key, "ES256")


def deciding(seen: Seen) -> str:
    """The deciding rule's name as Envoy says it; "" if none."""
    name = seen.rule
    if seen.status == 403 and name != names.NO_RULE:  # that is what a provider's refusal has
        name = name.removeprefix("rbac_access_denied_matched_policy[").removesuffix("]")
        name = name.replace("_", " ", 1)
    if seen.status == 401 or name in ("", "none", names.NO_RULE):
        return ""
    if seen.rule.startswith("ext_authz_denied"):  # a provider decided, not the rule that asked it
        return ""
    if name.startswith("nothing-allows"):
        return ""
    name = names.rule_name(name)
    return "" if name == "default-allow" else name


def tried(cases: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """So many policies, the same ones in each run; many are made smaller where they fail."""
    made: Callable[[Callable[[], None]], Callable[[], None]] = settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate] if cases < 10_000 else list(Phase),
        suppress_health_check=list(HealthCheck),
    )
    return made


def says_something(edge: Edge, *statuses: int) -> None:
    """Each verdict was given often enough that agreeing means something."""
    total = sum(edge.statuses.values())
    assert 0.1 < edge.statuses[200] / total < 0.9, edge.statuses
    assert all(edge.statuses.get(status, 0) > total / 100 for status in statuses), edge.statuses
