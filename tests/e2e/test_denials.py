"""Every kind of denial says its request id and, where a mesh wants it, what refused.

Found by that id, the line in the log of the proxy that refused says the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limen.core.model.provider import ExtensionProvider, ProviderProtocol
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import Effect, Path
from limen.core.xds.events import Confirmed

from .edge_harness import EdgeMesh
from .envoy_harness import LOOPBACK, EnvoyProcess, Response, TestMesh, policy, rule
from .test_envoy_providers import HttpProvider, World, custom
from .test_envoy_tokens import PLAN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HEADER = "x-limen-rule"
OUTSIDE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {port}, name: http, protocol: HTTP}}
    hosts: [a.example]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: items}}
spec:
  hosts: [a.example]
  gateways: [istio-system/edge]
  http: [{{match: [{{uri: {{prefix: /served}}}}], route: [{{destination: {{host: items}}}}]}}]
"""


def path(value: str) -> Path:
    return Path(StringMatch(How.PREFIX, value))


RULES = policy(
    custom(path("/served/asked"), name="because"),
    rule(Effect.DENY, path("/denied"), "never"),
    rule(Effect.ALLOW, path("/a"), "some"),
    rule(Effect.ALLOW, path("/served"), "served"),
    rule(Effect.ALLOW, path("/unrouted"), "unrouted"),
)
BAD_TOKEN = (("authorization", "Bearer e30.e30.e30"),)
DENIALS: tuple[tuple[str, tuple[tuple[str, str], ...], int, str], ...] = (
    ("/served/token", BAD_TOKEN, 401, "invalid-token"),
    ("/denied", (), 403, "rbac_access_denied_matched_policy[000000_never]"),
    ("/nothing", (), 403, "rbac_access_denied_matched_policy[none]"),
    ("/served/asked", (), 403, "ext_authz_denied[000000 because]"),
)


async def check(
    ask: Callable[[str, Any], Awaitable[Response]], envoy: EnvoyProcess
) -> dict[str, str]:
    """Every denial; bodies by path."""
    bodies = {}
    for target, headers, status, named in DENIALS:
        answer = await ask(target, headers)
        request_id = answer.headers["x-request-id"]
        assert (answer.status, answer.headers.get(HEADER)) == (status, named), target
        (line,) = await envoy.wait_logged(target)
        assert (line["request_id"], int(line["status"])) == (request_id, status)
        bodies[target] = answer.body.decode()
        if target == "/served/asked":
            assert bodies[target] == "the provider says no\n"  # its own answer stays
            assert line["asked authz"] == "000000 because"
        else:
            assert request_id in bodies[target]
    return bodies


async def test_every_denial_of_a_sidecar_is_named() -> None:
    async with TestMesh() as mesh:
        workload = await mesh.start("items", policy=policy())
        world = World(mesh, workload)
        try:
            provider, plan = await world.provide(ProviderProtocol.HTTP)
            provider.answer.consents = False
            changes = {"tokens": (PLAN,), "rule_header": HEADER}
            await world.enforce(RULES, plan, **changes)
            bodies = await check(world.ask, workload.envoy)
            assert "limen explain --from" in bodies["/denied"]
            allowed = await world.ask("/a")
            assert (allowed.status, allowed.headers[HEADER]) == (200, "000000 some")
            provider.answer.raw = b"nonsense"
            broken = await world.ask("/served/asked/b")
            assert (broken.status, broken.headers[HEADER]) == (403, "ext_authz_error")
        finally:
            await world.stop()


async def test_a_denial_by_the_callers_own_routes_says_its_request_id() -> None:
    async with TestMesh() as mesh:
        web = await mesh.start("web", policy=policy())
        answer = await web.call("http://items.mesh/unknown")
        assert answer.status == 403
        (line,) = await web.envoy.wait_logged("/unknown")
        assert line["request_id"] == answer.headers["x-request-id"]
        assert (line["edge"], line["mesh"]) == ("outbound", "default")


async def test_every_denial_of_a_gateway_is_named() -> None:
    async with EdgeMesh() as edge:
        provider = HttpProvider()
        provider.answer.consents = False
        plan = ExtensionProvider(
            "authz", ProviderProtocol.HTTP, None, LOOPBACK, await provider.start()
        )
        try:
            await edge.serve("items")
            await edge.start(OUTSIDE.format(port=edge.port(80)))
            gateway = edge.gateway
            assert gateway is not None
            assert gateway.plan.edge is not None
            changes = {"policy": RULES, "tokens": (PLAN,), "rule_header": HEADER}
            listeners = tuple(
                replace(each, providers=(plan,), log_all=True, **changes)
                for each in gateway.plan.edge.listeners
            )
            gateway.plan = replace(
                gateway.plan, edge=replace(gateway.plan.edge, listeners=listeners)
            )
            event = await gateway.envoy.ads.apply(gateway.resources())
            assert isinstance(event, Confirmed), event

            async def ask(target: str, headers: Any = ()) -> Response:
                async with asyncio.timeout(20):
                    return await edge.get(target, host="a.example", port=80, headers=headers)

            bodies = await check(ask, gateway.envoy)
            assert "explain" not in str(bodies)  # strangers learn nothing about internals
            closed = await ask("/served")  # nobody lets the gateway in: its route refuses
            assert (closed.status, closed.headers[HEADER]) == (403, "direct_response")
            (line,) = await gateway.envoy.wait_logged("/served")
            assert line["request_id"] == closed.headers["x-request-id"]
            assert line["request_id"] in closed.body.decode()
            nowhere = await ask("/unrouted")
            assert nowhere.status == 404  # no denial: there is nothing
            (line,) = await gateway.envoy.wait_logged("/unrouted")
            assert line["request_id"] == nowhere.headers["x-request-id"]
        finally:
            await provider.stop()
