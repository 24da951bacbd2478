"""Random policies and requests: `decide()` and a real Envoy give the same verdict.

One port speaks mTLS, one plaintext too; both verify tokens. `LIMEN_AGREEMENT_CASES` policies are
tried (300), each with a handful of requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.core.tokens.signing import ec_key, jwk, sign

from limen.core.compiler.paths import normalise_path
from limen.core.envoy import names
from limen.core.model.names import SpiffeId
from limen.core.plan.node import JwtPlan, PortMode
from limen.core.policy.decide import decide
from limen.core.policy.decision import Request
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Claim,
    Condition,
    DestinationIp,
    Effect,
    HasToken,
    Header,
    Host,
    Layer,
    LayerKind,
    Method,
    Not,
    Path,
    PathTemplate,
    Policy,
    Port,
    Principal,
    PrincipalNamespace,
    RemoteIp,
    RequestPrincipal,
    Rule,
    RuleRef,
    Sni,
    SourceIp,
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

    from limen.core.policy.decision import Decision

CASES = int(os.environ.get("LIMEN_AGREEMENT_CASES", "300"))
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
CIDRS = ("127.0.0.1", "127.0.0.2/31", "127.8.0.0/16", "127.0.0.0/8", "10.0.0.0/8", "::1", "::/0",
         "0.0.0.0/0", "127.0.0.3")  # fmt: skip
CLAIM_VALUES: tuple[Any, ...] = (
    "a", "A", "ab", "", ["a"], ["b", "a"], [], ["", 1], [["a"]], {"x": "a"}, {"x": ["a"]},
    {"x": {"x": "a"}}, 1, True, None, "a b", "\xe4\n",
)  # fmt: skip

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


CLAIM = matches(("a", "b", "ab", "A", "", "1", "\xe4"))


def leaves(ports: tuple[int, ...]) -> st.SearchStrategy[Condition]:
    cidrs = st.lists(st.sampled_from(CIDRS), max_size=2).map(tuple)
    hosts = matches(("items.mesh", "ITEMS.mesh", "items.mesh:1", "items", ".mesh", "h", "", ":1",
                     f"items.mesh:{ports[0]}"))  # fmt: skip
    return st.one_of(
        st.just(Always()),
        st.just(Authenticated()),
        st.builds(Principal, matches(PRINCIPAL_TEXTS)),
        st.builds(PrincipalNamespace, matches(("default", "shop", "sh", "op", "", "S", "a/sa/b"))),
        st.builds(Method, matches(("GET", "G", "T", "get", ""))),
        st.builds(Path, matches(("/", "/a", "/a/", "a", "b", "/A/", ""))),
        st.builds(
            PathTemplate,
            st.sampled_from(
                (
                    "/{*}",
                    "/a/{*}",
                    "/a/{**}",
                    "/{**}/b",
                    "/{*}/b/{**}",
                    "/a/{*}/b",
                    "/a{**}",
                    "/a.{*}",
                    "/{*}/{*}/{**}/d",
                )
            ),
        ),
        st.builds(Host, hosts, st.booleans()),
        st.builds(Header, st.just("x-tier"), matches(("gold", "g", "d", "silver", ""))),
        st.builds(Port, st.sampled_from((*ports, 1))),
        st.builds(SourceIp, cidrs),
        st.builds(RemoteIp, cidrs),
        st.builds(DestinationIp, cidrs),
        st.builds(Sni, matches((*SERVER_NAMES, "o", ".mesh", ""))),
        st.just(HasToken()),
        st.builds(
            RequestPrincipal,
            matches((ISSUER, "https://", "/a", "")),
            matches(("bob", "b/c", "", "o")),
        ),
        st.builds(Claim, st.sampled_from((("g",), ("g", "x"), ("g", "x", "x"), ("scope",))), CLAIM),
    )


def conditions(ports: tuple[int, ...]) -> st.SearchStrategy[Condition]:
    def combined(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
        some = st.lists(inner, max_size=3).map(tuple)
        return st.one_of(st.builds(AllOf, some), st.builds(AnyOf, some), st.builds(Not, inner))

    return st.recursive(leaves(ports), combined, max_leaves=6)


def layers(ports: tuple[int, ...]) -> st.SearchStrategy[Layer]:
    effects = st.sampled_from((Effect.ALLOW, Effect.ALLOW, Effect.ALLOW, Effect.DENY, Effect.AUDIT))
    rules = st.lists(st.builds(rule, effects, conditions(ports)), max_size=4).map(tuple)
    return st.builds(Layer, st.sampled_from(LayerKind), rules, st.booleans(), rules)


def policies(ports: tuple[int, ...]) -> st.SearchStrategy[Policy]:
    found = st.lists(layers(ports), max_size=2).map(tuple)
    return st.builds(Policy, found, st.booleans()).map(named)


def named(wanted: Policy) -> Policy:
    """The policy with a name for each rule that tells it from all others."""

    def rules(layer: int, part: str, found: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(replace(r, name=f"{layer}.{part}.{n}") for n, r in enumerate(found))

    return replace(
        wanted,
        layers=tuple(
            replace(x, rules=rules(n, "rule", x.rules), dry_run=rules(n, "trial", x.dry_run))
            for n, x in enumerate(wanted.layers)
        ),
    )


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
    min_size=4,
    max_size=8,
)


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
    async def start(cls, mesh: TestMesh) -> Edge:
        workload = await mesh.start("items", policy=completed(policy()))
        keys = json.dumps({"keys": [jwk(ec_key(), kid="1", alg="ES256")]})
        strict = replace(
            workload.plan.inbounds[0],
            address="0.0.0.0",  # noqa: S104 - any loopback address is reached
            tokens=(JwtPlan(ISSUER, jwks=keys),),
            rule_header=RULE_HEADER,
        )
        mixed = replace(strict, port=free_port(), mode=PortMode.PERMISSIVE)
        await workload.apply(inbounds=(strict, mixed))
        return cls(mesh, workload)

    async def apply(self, wanted: Policy) -> None:
        """The ports' listeners stay as they are, whatever the policy needs of them."""
        inbounds = tuple(replace(i, policy=completed(wanted)) for i in self.workload.plan.inbounds)
        event = await self.workload.apply(inbounds=inbounds)
        assert isinstance(event, Confirmed), event

    async def ask(self, asked: Asked) -> Seen:
        """What becomes of the request, and at which port."""
        port = self.ports[asked.caller is None]
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
            tls = asked.caller and client_tls(self.mesh.authority.issue(asked.caller))
            self.connections[key] = Connection(
                *await asyncio.open_connection(
                    asked.reached,
                    port,
                    ssl=tls,
                    server_hostname=asked.server_name if tls else None,
                    local_addr=(asked.source, 0),
                )
            )
        return self.connections[key]


def completed(wanted: Policy) -> Policy:
    nobody = AllOf((AnyOf(()), Sni(StringMatch(How.PRESENT))))
    never = Rule(Effect.AUDIT, nobody, "never", RuleRef("", "", "", "", 0))
    return replace(wanted, layers=(*wanted.layers, Layer(LayerKind.AUTHORIZATION, (never,), False)))


def token(asked: Asked) -> str:
    claims = {"iss": ISSUER, "exp": int(time.time()) + 600, **(asked.claims or {})}
    key = ec_key(number=2) if asked.bad else ec_key()
    return sign({"alg": "ES256", "kid": "1"}, claims, key, "ES256")


def expected(wanted: Policy, asked: Asked, port: int) -> Decision | int:
    """What `decide()` says, or the status of a request that never comes to it."""
    path = normalise_path(asked.target)
    if path.refused:
        return 400
    if asked.claims is not None and asked.bad:
        return 401
    claims = None
    if asked.claims is not None:
        claims = {"iss": ISSUER, **asked.claims}
        if isinstance(claims.get("scope"), str):
            claims["scope"] = [word for word in claims["scope"].split(" ") if word]
    request = Request(
        asked.caller,
        asked.method,
        path.path,
        {"x-tier": asked.values} if asked.values else {},
        port,
        host=asked.host.format(port=port).removesuffix("."),
        claims=claims,
        source_ip=asked.source,
        remote_ip=asked.source,
        destination_ip=asked.reached,
        sni=asked.server_name if asked.caller else "",
    )
    return decide(wanted, request)


def check(wanted: Policy, asked: Asked, seen: Seen) -> None:
    decision = expected(wanted, asked, seen.port)
    said = f"\n{wanted}\n{asked}\n{decision}\n{seen}"
    if decision == 400:
        odd = "%2e;" in asked.target  # denied like any request; all others before filters see them
        assert seen.status in ((401, 403) if odd else (400,)), said
    elif isinstance(decision, int):
        assert seen.status == decision, said
    else:
        rule_ = decision.rule.name if decision.rule else ""
        told = (200 if decision.allowed else 403, rule_)
        assert told == (seen.status, deciding(seen)), said


def deciding(seen: Seen) -> str:
    """The deciding rule's name as Envoy says it; "" if none."""
    name = seen.rule
    if seen.status == 403:
        name = name.removeprefix("rbac_access_denied_matched_policy[").removesuffix("]")
        name = name.replace("_", " ", 1)
    if seen.status == 401 or name in ("", "none", names.NO_RULE):
        return ""
    if name.startswith("nothing-allows"):
        return ""
    name = names.rule_name(name)
    return "" if name == "default-allow" else name


def test_envoy_and_decide_agree() -> None:
    with asyncio.Runner() as runner:
        mesh = TestMesh()
        try:
            edge = runner.run(Edge.start(mesh))
            agreement(runner, edge)()
            total = sum(edge.statuses.values())
            assert 0.1 < edge.statuses[200] / total < 0.9, "the cases say nothing"
            assert all(edge.statuses[status] > total / 100 for status in (400, 401, 403))
        finally:
            runner.run(mesh.__aexit__())


def agreement(runner: asyncio.Runner, edge: Edge) -> Callable[[], None]:
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate] if CASES < 10_000 else list(Phase),
        suppress_health_check=list(HealthCheck),
    )
    @given(policies(edge.ports), REQUESTS)
    def agree(wanted: Policy, requests: list[Asked]) -> None:
        runner.run(edge.apply(wanted))
        for asked in requests:
            check(wanted, asked, runner.run(edge.ask(asked)))

    return agree


async def test_each_value_of_a_repeated_header_counts() -> None:
    """2020-25017, 2021-32777, 2026-26308: first only, last only, or joined values."""
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
                    asked = Asked(
                        CALLERS[0], "GET", "/", values, "items.mesh", LOOPBACK, LOOPBACK,
                        SERVER_NAMES[0], None, bad=False,
                    )  # fmt: skip
                    seen = await edge.ask(asked)
                    decision = expected(wanted, asked, seen.port)
                    assert not isinstance(decision, int)
                    assert decision.allowed == (seen.status == 200), (decision, values)
