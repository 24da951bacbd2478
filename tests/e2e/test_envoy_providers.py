"""CUSTOM rules with a real Envoy and a real ext_authz server, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2 as auth_pb2
from envoy.type.v3 import http_status_pb2
from google.rpc import status_pb2

from limen.adapters.ports import free_port
from limen.core.model.names import WorkloadName
from limen.core.model.provider import (
    ExtensionProvider,
    HeaderPatterns,
    ProviderBody,
    ProviderProtocol,
    Stage,
)
from limen.core.plan.node import PortMode
from limen.core.policy.decide import decide
from limen.core.policy.decision import Request
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    Always,
    Authenticated,
    Effect,
    HasToken,
    Method,
    Not,
    Path,
    Policy,
    Rule,
)
from limen.core.xds.events import Confirmed

from .envoy_harness import (
    LOOPBACK,
    Application,
    Connection,
    Received,
    Response,
    TestMesh,
    Workload,
    allow,
    client_tls,
    policy,
    rule,
)
from .test_envoy_tokens import PLAN, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

HTTP, GRPC = ProviderProtocol.HTTP, ProviderProtocol.GRPC
BOTH = pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])
OK, REFUSED = 0, 7
"""Codes of google.rpc: a gRPC provider consents or refuses."""


@dataclass
class Answer:
    """What a provider is to say: consent or not, after a while, with headers."""

    consents: bool = True
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    raw: bytes = b""


class HttpProvider:
    """Asked over HTTP/1.1."""

    protocol = HTTP

    def __init__(self) -> None:
        self.answer = Answer()
        self._application = Application(self._handle)

    async def start(self, path: str = "") -> int:
        await self._application.start(path)
        return self._application.port

    async def stop(self) -> None:
        await self._application.stop()

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [
            {
                "method": r.method,
                "path": r.target,
                "headers": dict(r.headers),
                "body": r.body.decode(),
            }
            for r in self._application.requests
        ]

    async def _handle(self, _: Received, connection: Connection) -> None:
        answer = self.answer
        if answer.silent:
            await asyncio.Event().wait()
        if answer.raw:
            connection.writer.write(answer.raw)
            return
        status = answer.status or (200 if answer.consents else 403)
        lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in answer.headers.items())]
        body = b"" if answer.consents else b"the provider says no\n"
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
        connection.writer.write(head.encode() + body)


class GrpcProvider:
    """Asked over gRPC."""

    protocol = GRPC

    def __init__(self) -> None:
        self.answer = Answer()
        self.checks: list[auth_pb2.CheckRequest] = []
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        self._server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(self._check)
        service = "envoy.service.auth.v3.Authorization"
        handler = grpc.method_handlers_generic_handler(service, {"Check": method})
        self._server.add_generic_rpc_handlers((handler,))
        port = self._server.add_insecure_port(f"{LOOPBACK}:0")
        await self._server.start()
        return port

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [
            {
                "method": c.attributes.request.http.method,
                "path": c.attributes.request.http.path,
                "headers": dict(c.attributes.request.http.headers),
                "body": c.attributes.request.http.body,
                "principal": c.attributes.source.principal,
            }
            for c in self.checks
        ]

    async def _check(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.checks.append(auth_pb2.CheckRequest.FromString(data))
        answer = self.answer
        if answer.silent:
            await asyncio.Event().wait()
        if answer.raw:
            return answer.raw
        if answer.status >= 500:
            await context.abort(grpc.StatusCode.INTERNAL, "broken")
        options = [
            base_pb2.HeaderValueOption(
                header=base_pb2.HeaderValue(key=k, value=v),
                append_action="OVERWRITE_IF_EXISTS_OR_ADD",
            )
            for k, v in answer.headers.items()
        ]
        if answer.consents:
            made = auth_pb2.CheckResponse(
                status=status_pb2.Status(code=OK),
                ok_response=auth_pb2.OkHttpResponse(headers=options),
            )
        else:
            denied = auth_pb2.DeniedHttpResponse(
                status=http_status_pb2.HttpStatus(code="Forbidden"),
                headers=options,
                body="the provider says no\n",
            )
            made = auth_pb2.CheckResponse(
                status=status_pb2.Status(code=REFUSED), denied_response=denied
            )
        return made.SerializeToString()


Provider = HttpProvider | GrpcProvider


def custom(condition: Any, provider: str = "authz", name: str = "ask") -> Rule:
    return replace(rule(Effect.CUSTOM, condition, name), provider=provider)


def path(value: str) -> Path:
    return Path(StringMatch(How.EXACT, value))


ALL = rule(Effect.ALLOW, Always(), "all")
ASKED = policy(custom(path("/asked")), ALL)


class World:
    """A guarded port, a caller, and providers on the proxy's host."""

    def __init__(self, mesh: TestMesh, workload: Workload) -> None:
        self.mesh, self.workload = mesh, workload
        self._stop: list[Provider] = []

    async def provide(
        self, protocol: ProviderProtocol, name: str = "authz", **settings: Any
    ) -> tuple[Provider, ExtensionProvider]:
        provider: Provider = HttpProvider() if protocol is HTTP else GrpcProvider()
        port = await provider.start()
        self._stop.append(provider)
        return provider, ExtensionProvider(name, protocol, None, LOOPBACK, port, **settings)

    async def enforce(self, wanted: Policy, *providers: ExtensionProvider, **changes: Any) -> None:
        inbound = self.workload.plan.inbounds[0]
        changed = replace(
            inbound,
            policy=wanted,
            providers=tuple(sorted(providers, key=lambda p: p.name)),
            cutover=inbound.cutover + 1,
            **changes,
        )
        event = await self.workload.apply(inbounds=(changed,))
        assert isinstance(event, Confirmed), event

    async def ask(
        self,
        target: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        method: str = "GET",
        body: bytes = b"",
        anonymous: bool = False,
    ) -> Response:
        certificate = self.mesh.authority.issue(self.mesh.identity("users"))
        tls = None if anonymous else client_tls(certificate)
        connection = await Connection.open(self.workload.port, tls)
        try:
            async with asyncio.timeout(20):
                return await connection.request(method, target, headers, body)
        finally:
            await connection.close()

    def reached(self) -> list[str]:
        assert self.workload.application is not None
        return [request.target for request in self.workload.application.requests]

    async def stop(self) -> None:
        for provider in self._stop:
            await provider.stop()


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with TestMesh() as mesh:
        made = World(mesh, await mesh.start("items", policy=policy(ALL)))
        yield made
        await made.stop()


@BOTH
async def test_a_provider_is_asked_about_what_its_rules_match_and_its_answer_counts(
    world: World, protocol: ProviderProtocol
) -> None:
    provider, settings = await world.provide(protocol)
    await world.enforce(ASKED, settings)
    assert (await world.ask("/free")).status == 200
    assert provider.asked == []
    assert (await world.ask("/asked?x=1")).status == 200
    assert provider.asked[0]["path"] == "/asked?x=1"
    provider.answer = Answer(consents=False)
    refused = await world.ask("/asked")
    assert (refused.status, refused.body) == (403, b"the provider says no\n")
    assert world.reached() == ["/free", "/asked?x=1"]
    lines = await world.workload.envoy.wait_logged("/asked")
    assert any(line.get("asked authz") == "000000 ask" for line in lines), lines


@BOTH
async def test_a_provider_that_cannot_answer_refuses(
    world: World, protocol: ProviderProtocol
) -> None:
    provider, settings = await world.provide(protocol)
    await world.enforce(ASKED, replace(settings, status_on_error=503))
    provider.answer = Answer(status=500)
    assert (await world.ask("/asked")).status == 503
    provider.answer = Answer(raw=b"\xff\xff what is that\r\n\r\n")
    assert (await world.ask("/asked")).status == 503
    provider.answer = Answer(silent=True)
    before = asyncio.get_running_loop().time()
    assert (await world.ask("/asked")).status == 503
    assert asyncio.get_running_loop().time() - before >= 1.9, "the default is 2 s"
    await provider.stop()
    assert (await world.ask("/asked")).status == 503
    nowhere = replace(settings, port=free_port(), status_on_error=403)
    await world.enforce(ASKED, nowhere)
    assert (await world.ask("/asked")).status == 403
    assert (await world.ask("/free")).status == 200
    assert world.reached() == ["/free"]


async def test_a_rule_whose_provider_is_not_there_refuses_what_it_matches(world: World) -> None:
    await world.enforce(ASKED)
    assert (await world.ask("/asked")).status == 403
    assert (await world.ask("/free")).status == 200


async def test_a_listener_that_does_not_ask_yet_lets_nothing_pass(world: World) -> None:
    """The filter configurations may be there before the listener that has the filters."""
    provider, settings = await world.provide(HTTP)
    await world.enforce(policy(ALL))
    resources = world.workload.resources()
    from limen.core.envoy import names  # noqa: PLC0415
    from limen.core.envoy.rbac import permission_resources  # noqa: PLC0415

    port = world.workload.port
    early = {r.name: r for r in permission_resources(ASKED, port)}
    extensions = {**resources[names.EXTENSION], **early}
    event = await world.workload.envoy.ads.apply({**resources, names.EXTENSION: extensions})
    assert isinstance(event, Confirmed), event
    assert (await world.ask("/asked")).status == 403
    assert (await world.ask("/free")).status == 200
    await world.enforce(ASKED, settings)
    assert (await world.ask("/asked")).status == 200
    assert len(provider.asked) == 1


@BOTH
async def test_only_the_provider_fills_its_headers_asked_or_not(
    world: World, protocol: ProviderProtocol
) -> None:
    provider, settings = await world.provide(
        protocol,
        to_upstream=("x-ext-user",),
        request_headers=HeaderPatterns(("x-*",)) if protocol is HTTP else HeaderPatterns(),
    )
    await world.enforce(ASKED, settings)
    forged = [
        ("x-ext-user", "root"), ("X-Ext-User", "root2"), ("x-limen-caller", "spiffe://forged"),
        ("x-limen-claims", '{"sub":"root"}'), ("x-own", "1"),
    ]  # fmt: skip
    names_of = lambda answer: [v for k, v in answer.json["headers"] if k == "x-ext-user"]  # noqa: E731
    assert names_of(await world.ask("/free", forged)) == []
    assert names_of(await world.ask("/asked", forged)) == [], "it consents and says nothing"
    seen = provider.asked[0]["headers"]
    assert seen["x-own"] == "1"
    assert "x-ext-user" not in seen
    assert "x-limen-claims" not in seen
    identity = str(world.mesh.identity("users"))
    if protocol is HTTP:
        assert seen["x-limen-caller"] == identity
    else:
        assert "x-limen-caller" not in seen
        assert provider.asked[0]["principal"] == identity
    provider.answer = Answer(
        headers={"x-ext-user": "anna", "x-forwarded-client-cert": "URI=spiffe://x", "x-other": "1"}
    )
    answer = await world.ask("/asked", forged)
    assert names_of(answer) == ["anna"]
    headers = dict(answer.json["headers"])
    assert identity in headers["x-forwarded-client-cert"]
    assert "x-other" not in headers


@BOTH
async def test_a_body_is_sent_along_and_one_over_the_limit_is_refused(
    world: World, protocol: ProviderProtocol
) -> None:
    provider, settings = await world.provide(protocol, body=ProviderBody(16))
    await world.enforce(ASKED, settings)
    assert (await world.ask("/asked", method="POST", body=b"0123456789")).status == 200
    assert provider.asked[0]["body"] == "0123456789"
    assert (await world.ask("/asked", method="POST", body=b"0" * 17)).status == 413
    assert world.reached() == ["/asked"]


async def test_several_providers_of_one_port_must_all_consent(world: World) -> None:
    first, a = await world.provide(HTTP, "a")
    second, b = await world.provide(GRPC, "b", stage=Stage.AFTER_TOKENS)
    rules = (custom(path("/both"), "a", "1"), custom(path("/both"), "b", "2"),
             custom(path("/b"), "b", "3"))  # fmt: skip
    wanted = policy(*rules, ALL)
    await world.enforce(wanted, a, b)
    for target in ("/both", "/b", "/free"):
        for consents in ((), ("a",), ("b",), ("a", "b")):
            first.answer, second.answer = Answer("a" in consents), Answer("b" in consents)
            said = decide(wanted, Request(path=target, consents=frozenset(consents)))
            assert ((await world.ask(target)).status == 200) == said.allowed, (target, consents)


async def test_custom_goes_before_deny_and_deny_before_allow(world: World) -> None:
    provider, settings = await world.provide(HTTP)
    deny = rule(Effect.DENY, path("/asked"), "no")
    await world.enforce(policy(custom(Always()), deny), settings)
    assert (await world.ask("/asked")).status == 403
    assert len(provider.asked) == 1, "asked, though a denial decides"
    assert (await world.ask("/other")).status == 403, "consent alone allows nothing"
    assert len(provider.asked) == 2


async def test_a_caller_without_identity_is_asked_about_by_a_negated_identity(
    world: World,
) -> None:
    provider, settings = await world.provide(HTTP)
    wanted = policy(custom(Not(Authenticated())), ALL)
    await world.enforce(wanted, settings, mode=PortMode.PERMISSIVE)
    provider.answer = Answer(consents=False)
    assert (await world.ask("/x")).status == 200
    assert (
        await world.ask("/x", [("x-limen-caller", "spiffe://forged")], anonymous=True)
    ).status == 403
    assert len(provider.asked) == 1
    assert "x-limen-caller" not in provider.asked[0]["headers"]


@pytest.mark.parametrize("effect", list(Effect))
async def test_a_rule_on_trial_is_enforced_nowhere_whatever_it_does(
    world: World, effect: Effect
) -> None:
    trial = custom(path("/x")) if effect is Effect.CUSTOM else rule(effect, path("/x"), "trial")
    await world.enforce(policy(ALL, trial=(trial,)))
    assert (await world.ask("/x")).status == 200
    line = (await world.workload.envoy.wait_logged("/x"))[0]
    assert line["shadow_rule"].endswith(trial.name)
    only = policy(rule(Effect.ALLOW, Method(StringMatch(How.EXACT, "POST"))), trial=(trial,))
    await world.enforce(only)
    assert (await world.ask("/x")).status == 403, "an ALLOW on trial allows nothing"


@BOTH
async def test_a_workload_of_the_mesh_is_asked_over_mutual_tls(protocol: ProviderProtocol) -> None:
    from limen.core.model.workload import Protocol  # noqa: PLC0415

    provider: Provider = HttpProvider() if protocol is HTTP else GrpcProvider()
    port = await provider.start()
    async with TestMesh() as mesh:
        authz = await mesh.start(
            "authz",
            policy=allow(mesh.identity("items")),
            service_port=port,
            protocol=Protocol.HTTP if protocol is HTTP else Protocol.GRPC,
        )
        world = World(mesh, await mesh.start("items", policy=policy(ALL), calls=[authz]))
        settings = ExtensionProvider("authz", protocol, ("default", "authz"))
        await world.enforce(ASKED, settings)
        assert (await world.ask("/asked")).status == 200
        assert len(provider.asked) == 1
        provider.answer = Answer(consents=False)
        assert (await world.ask("/asked")).status == 403
        await authz.apply_policy(allow(mesh.identity("others")))
        provider.answer = Answer()
        assert (await world.ask("/asked")).status == 403, "the provider's own edge refuses"
        assert len(provider.asked) == 2
        gone = WorkloadName("default", "default", "authz")
        world.workload.endpoints[gone] = ()
        await world.workload.apply(edges=())
        assert (await world.ask("/asked")).status == 403, "no way there at all"
    await provider.stop()


@BOTH
async def test_after_tokens_a_provider_gets_claims_that_no_client_can_forge(
    world: World, protocol: ProviderProtocol
) -> None:
    provider, settings = await world.provide(protocol, stage=Stage.AFTER_TOKENS)
    await world.enforce(policy(custom(HasToken()), ALL), settings, tokens=(PLAN,))
    forged = ("x-limen-claims", '{"sub":"root"}')
    assert (await world.ask("/x", [forged])).status == 200, "no token: nobody is asked"
    assert provider.asked == []
    bearer = ("authorization", f"Bearer {token(sub='anna')}")
    assert (await world.ask("/x", [bearer, forged])).status == 200
    if isinstance(provider, HttpProvider):
        claims = json.loads(provider.asked[0]["headers"]["x-limen-claims"])
    else:
        context = provider.checks[0].attributes.metadata_context.filter_metadata
        claims = dict(context["envoy.filters.http.jwt_authn"]["payload"])
        assert "x-limen-claims" not in provider.asked[0]["headers"]
    assert claims["sub"] == "anna"
    bad = ("authorization", f"Bearer {token(key=9)}")
    assert (await world.ask("/x", [bad])).status == 401
    assert len(provider.asked) == 1
    provider.answer = Answer(consents=False)
    assert (await world.ask("/x", [bearer])).status == 403
