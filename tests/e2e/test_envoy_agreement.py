"""Random policies and requests: `decide()` and a real Envoy give the same verdict.

CUSTOM rules ask providers that are there, one that consents and one that refuses. One port speaks
mTLS, one plaintext too; both verify tokens. `--agreement-cases` policies are tried, each with about
ten requests; `test_document_agreement.py` begins with documents.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from limen.core.compiler.paths import normalise_path
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
    Sni,
    SourceIp,
)

from .agreement import (
    CALLERS,
    CONSENTS,
    GONE,
    ISSUER,
    REFUSES,
    REQUESTS,
    SERVER_NAMES,
    Asked,
    Edge,
    Providers,
    Seen,
    deciding,
    says_something,
    tried,
)
from .envoy_harness import DOMAIN, LOOPBACK, TestMesh, policy, rule

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from limen.core.policy.decision import Decision

CIDRS = ("127.0.0.1", "127.0.0.2/31", "127.8.0.0/16", "127.0.0.0/8", "10.0.0.0/8", "::1", "::/0",
         "0.0.0.0/0", "127.0.0.3")  # fmt: skip


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
    effects = st.sampled_from(
        (Effect.ALLOW,) * 6 + (Effect.DENY, Effect.DENY, Effect.AUDIT, Effect.CUSTOM)
    )
    providers = st.sampled_from((CONSENTS, CONSENTS, REFUSES, GONE))
    made = st.builds(rule, effects, conditions(ports))
    asked = st.builds(lambda r, p: replace(r, provider=p), made, providers)
    rules = st.lists(asked, max_size=4).map(tuple)
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
        consents=frozenset({CONSENTS}),
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
        refused = any(r.provider == REFUSES for r in decision.asked)  # asked before other rules
        rule_ = decision.rule.name if decision.rule and not refused else ""
        told = (200 if decision.allowed else 403, rule_)
        assert told == (seen.status, deciding(seen)), said


def test_envoy_and_decide_agree(pytestconfig: pytest.Config) -> None:
    with asyncio.Runner() as runner:
        mesh, providers = TestMesh(), Providers()
        try:
            edge = runner.run(Edge.start(mesh, runner.run(providers.start())))
            agreement(runner, edge, pytestconfig.getoption("agreement_cases"))()
            says_something(edge, 400, 401, 403)
            assert min(providers.asked()) > 20
        finally:
            runner.run(mesh.__aexit__())
            runner.run(providers.stop())


def agreement(runner: asyncio.Runner, edge: Edge, cases: int) -> Callable[[], None]:
    @tried(cases)
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
