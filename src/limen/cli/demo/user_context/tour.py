"""The tour of `limen demo user-context`: the user's way in, on, and everything that is refused."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from limen.adapters.ports import free_port
from limen.cli.client import load_client_file
from limen.cli.demo import direct
from limen.cli.demo.user_context.documents import GATEWAY, Places, documents, spiffe
from limen.cli.demo.user_context.people import (
    TOKEN_LIFE_S,
    Machine,
    Provider,
    forged_token,
    start_provider,
)

if TYPE_CHECKING:
    from limen.cli.demo.report import Report
    from limen.cli.demo.world import World

SERVICES = ("orders", "stock", "archive")
NEXT = {"orders": "stock", "stock": "archive", "archive": ""}
SCOPE = {"orders": "orders.read", "stock": "stock.read", "archive": "stock.read"}
REVOKED_WITHIN_S = 2.0
WAIT_S = 20.0


@dataclass(slots=True)
class Tour:
    """What the steps share."""

    world: World
    provider: Provider
    machine: Machine = field(default_factory=Machine)
    edge_port: int = field(default_factory=free_port)
    token: str = field(default="", repr=False)

    async def call(self, token: str, more: dict[str, str] | None = None) -> httpx.Response:
        """The web app calls the API at the gateway."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{self.edge_port}/"
        return await self.world.http.get(url, headers={**headers, **(more or {})})

    async def last(self, service: str) -> str:
        """The token that a service got last."""
        answer = await self.world.ask(service, "/last")
        return str(answer["token"])

    async def send(self, service: str, to: str, token: str) -> int:
        """A service that was broken into sends a token."""
        url = f"http://127.0.0.1:{self.world.ports[service]}/send"
        answer = await self.world.http.post(url, json={"to": to, "token": token})
        return int(answer.json()["status"])


async def run(world: World, report: Report) -> None:
    """Everything in order."""
    tour = await start(world, report)
    for step in (way_in, machine, refusals, inside, stolen, records, expiry, revocation):
        await step(tour, report)


async def start(world: World, report: Report) -> Tour:
    """A provider that is not ours; a server with its token service; a gateway; three services."""
    with report.step("starting a provider, a server, a gateway and three services"):
        began = time.monotonic()
        provider = await start_provider(world)
        tour = Tour(world, provider)
        await world.start_server(
            "--jwks-allow", "127.0.0.0/8", "--jwks-allow", "::1/128",
            "--jwks-ca", str(provider.ca_file),
        )  # fmt: skip
        secret = base64.b64encode(provider.introspection_secret.encode()).decode()
        text = documents(Places(provider.url, tour.edge_port, secret, tour.machine.jwks))
        await world.start_agent(SERVICES)
        await asyncio.gather(
            *(
                world.start_service(
                    name,
                    "limen.cli.demo.user_context.app",
                    {"DEMO_NEXT": NEXT[name], "DEMO_SCOPE": SCOPE[name]},
                )
                for name in SERVICES
            )
        )
        await world.start_gateway()
        await world.apply("user-context.yaml", text)
        report.measure("start", time.monotonic() - began)
        return tour


async def way_in(tour: Tour, report: Report) -> None:
    """A person logs in; the opaque token becomes one of the mesh, and goes on by exchange."""
    with report.step("a person logs in elsewhere, and calls an API"):
        tour.token = await tour.provider.log_in()
        opaque = "." not in tour.token
        report.check("the web app's token is opaque", expected=True, seen=opaque)
        answer = await _until(tour, tour.token, 200)
        report.check(
            "web app → gateway → orders → stock → archive", expected=200, seen=answer.status_code
        )
        if not answer.is_success:
            report.check("what was answered", expected="JSON", seen=answer.text[:300])
            return
        found = answer.json()
        while found is not None:
            _check_hop(tour, report, found)
            found = found.get("next")
        began = time.monotonic()
        for _ in range(20):
            await tour.call(tour.token)
        report.measure("a call with a token that was seen", (time.monotonic() - began) / 20)


def _check_hop(tour: Tour, report: Report, found: dict[str, Any]) -> None:
    """Who the user is and through whom he came, as one service knows it."""
    name = found["service"]
    report.check(f"{name}: answers", expected=200, seen=found["status"])
    if found["status"] != 200:
        report.check(f"{name}: says", expected="JSON", seen=found["body"])
        return
    user = f"{found['issuer']} {found['subject']}"
    report.check(f"{name}: the user", expected=f"{tour.provider.url}/o ann", seen=user)
    chains = {"orders": [GATEWAY], "stock": [GATEWAY, spiffe("orders")]}
    chain = chains.get(name, chains["stock"])
    report.check(f"{name}: through whom", expected=" ".join(chain), seen=" ".join(found["chain"]))
    callers = {"orders": GATEWAY, "stock": spiffe("orders"), "archive": spiffe("stock")}
    report.check(f"{name}: who calls", expected=callers[name], seen=found["caller"])
    meant = {"orders": "orders", "stock": "stock", "archive": "stock"}[name]
    report.check(f"{name}: meant for", expected=spiffe(meant), seen=" ".join(found["audiences"]))


async def machine(tour: Tour, report: Report) -> None:
    """A machine client does the same as itself."""
    with report.step("a machine calls as itself"):
        roots = load_client_file(tour.world.client_file).ca_pem
        token = await tour.machine.token(_token_service(tour), roots, GATEWAY)
        answer = await tour.call(token)
        report.check("machine → gateway → …", expected=200, seen=answer.status_code)
        if answer.is_success:
            stock = answer.json()["next"]
            seen = stock.get("subject", "")
            report.check("stock: it is nobody's user", expected="client:nightly", seen=seen)


def _token_service(tour: Tour) -> str:
    """Where the token service is, and what its tokens say: the server tells when it starts."""
    assert tour.world.server is not None  # noqa: S101 - started in the first step
    said = re.search(r"tokens +(https://\S+)", tour.world.server.log.read_text(encoding="utf-8"))
    return said[1] if said else ""


async def refusals(tour: Tour, report: Report) -> None:
    """At the gateway."""
    with report.step("what the gateway refuses"):
        issuer = _token_service(tour)
        cells = {
            "no token": "",
            "an unknown token": "opaque-of-nobody",
            "a token of another issuer": forged_token("https://evil.example", GATEWAY, "ann"),
            "a forged token of the mesh": forged_token(issuer, spiffe("orders"), "login:ann"),
            "a token of the mesh, from outside": await tour.last("orders"),
        }
        for name, token in cells.items():
            answer = await tour.call(token)
            report.check(name, expected=401, seen=answer.status_code)
        forged = {"x-limen-user": "e30", "x-limen-user-context": await tour.last("orders")}
        answer = await tour.call("", forged)
        report.check("headers of the inside, from outside", expected=401, seen=answer.status_code)


async def inside(tour: Tour, report: Report) -> None:
    """Service to service, by workloads that may call at all."""
    with report.step("what services refuse one another"):
        issuer = _token_service(tour)
        cells = {
            "archive → stock without a token": ("", 401),
            "archive → stock with the opaque token": (tour.token, 401),
            "archive → stock with a token for orders": (await tour.last("orders"), 401),
            "archive → stock with a forged token": (
                forged_token(issuer, spiffe("stock"), "login:ann"), 401
            ),
            "archive → stock with the token that orders was given": (await tour.last("stock"), 403),
        }  # fmt: skip
        for name, (token, status) in cells.items():
            seen = await tour.send("archive", "stock", token)
            report.check(name, expected=status, seen=seen)


async def stolen(tour: Tour, report: Report) -> None:
    """A token stolen together with nothing else."""
    with report.step("a stolen token, without the thief being anybody"):
        host, _, port = (await tour.world.guarded_address("stock")).rpartition(":")
        token = await tour.last("stock")
        answer = await direct.get(None, host, int(port), "/", token=token)
        report.check("TLS without a certificate", expected=0, seen=answer.status)
        plain = await direct.get(None, host, int(port), "/", scheme="http", token=token)
        report.check("plaintext", expected=0, seen=plain.status)


async def records(tour: Tour, report: Report) -> None:
    """The audit log shows who exchanged whose token for whom."""
    with report.step("what the audit log shows"):
        wanted = [
            (GATEWAY, "login:ann", spiffe("orders")),
            (spiffe("orders"), "login:ann", spiffe("stock")),
        ]
        deadline = time.monotonic() + WAIT_S
        seen: set[tuple[str, str, str]] = set()
        while not seen.issuperset(wanted) and time.monotonic() < deadline:
            answer = await tour.world.call("get", "/v1/audit", limit=1000)
            seen = {_issued(event) for event in answer["items"] if event["verb"] == "issue"}
            await asyncio.sleep(0.2)
        for client, user, audience in wanted:
            name = f"{user} for {audience.rpartition('/')[2]}, by {client.rpartition('/')[2]}"
            report.check(name, expected=True, seen=(client, user, audience) in seen)


def _issued(event: dict[str, Any]) -> tuple[str, str, str]:
    detail = event["detail"]
    return str(detail.get("client")), str(detail.get("sub")), " ".join(detail.get("aud", []))


async def revocation(tour: Tour, report: Report) -> None:
    """A user is revoked; a token that the gateway has cached is refused within 2 s."""
    with report.step("the user is revoked"):
        token = await tour.provider.log_in()
        answer = await tour.call(token)
        report.check("before", expected=200, seen=answer.status_code)
        said = {"issuer": "", "by": "sub", "value": "login:ann", "until_s": time.time() + 3600}
        began = time.monotonic()
        await tour.world.call("post", "/v1/revocations", body=said)
        after = await _until(tour, token, 401)
        took = time.monotonic() - began
        report.measure("a revoked user is refused", took)
        report.check("after", expected=401, seen=after.status_code)
        report.check(
            "how soon",
            expected=f"within {REVOKED_WITHIN_S:.0f} s",
            seen=f"after {took * 1000:.0f} ms",
            passed=took <= REVOKED_WITHIN_S,
        )


async def expiry(tour: Tour, report: Report) -> None:
    """A person's token is over when its provider says so, whatever the gateway has kept."""
    with report.step("a token that is over"):
        answer = await _until(tour, tour.token, 401, TOKEN_LIFE_S + WAIT_S)
        report.check("the first token, a while later", expected=401, seen=answer.status_code)
        answer = await tour.call(await tour.provider.log_in())
        report.check("a new one", expected=200, seen=answer.status_code)


async def _until(tour: Tour, token: str, status: int, within_s: float = WAIT_S) -> httpx.Response:
    """Call until the gateway answers so, or for that long."""
    deadline = time.monotonic() + within_s
    answer = await _answered(tour, token)
    while answer.status_code != status and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        answer = await _answered(tour, token)
    return answer


async def _answered(tour: Tour, token: str) -> httpx.Response:
    try:
        return await tour.call(token)
    except httpx.HTTPError:
        return httpx.Response(503)
