"""What a token costs: exchanges per second of one core, mTLS, policy and audit on.

A server, a token service in a process of its own, and callers here. What counts is the CPU time of
the token service: the machine's other cores do the asking. `--short`: fewer requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
from tests.services.jwks_provider import make_authority, server_context
from tests.services.server_harness import Running, anonymous, join, make_csr
from tests.services.token_harness import ACCESS, EXCHANGE, JWT, LOGIN, Signer, spiffe

from limen.adapters.mtls import client_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

CONNECTIONS = 32
TICKS = os.sysconf("SC_CLK_TCK")
GOALS = {"opaque to JWT": 3000, "JWT to JWT": 1500}
DOCUMENTS = """
apiVersion: v1
kind: Secret
metadata: {name: idp}
stringData: {client-secret: s3cr3ts3cr3t}
---
apiVersion: limen.dev/v1
kind: TrustedIssuer
metadata: {name: opaque}
spec:
  issuer: https://opaque.example
  introspection:
    {url: "https://127.0.0.1:PORT/i", clientId: limen, clientSecretRef: {name: idp}, cacheTtl: 5m}
  audiences: [shop]
---
apiVersion: limen.dev/v1
kind: TrustedIssuer
metadata: {name: login}
spec:
  issuer: ISSUER
  jwt: {jwks: 'JWKS', algorithms: [ES256]}
  audiences: [shop]
---
apiVersion: limen.dev/v1
kind: TokenExchangePolicy
metadata: {name: web}
spec:
  from: [{serviceAccount: web}]
  subjects: [{issuer: login}, {issuer: opaque}]
  audiences: [items, '*.example.com']
  scopes: [read, write]
"""


@dataclass
class Process:
    """A `limen` process and what it printed first."""

    process: asyncio.subprocess.Process
    said: list[str] = field(default_factory=list)

    @classmethod
    async def start(cls, ready: str, *arguments: str, **environment: str) -> Process:
        """Start it, and return when it has printed `ready`."""
        command = [sys.executable, "-m", "limen.cli.main", *arguments]
        made = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **environment}
        )
        self = cls(made)
        assert made.stdout is not None
        async with asyncio.timeout(60):
            while not any(ready in line for line in self.said):
                line = await made.stdout.readline()
                if not line:
                    raise RuntimeError(f"{command} ended")
                self.said.append(line.decode())
        return self

    def value(self, name: str) -> str:
        """What it printed behind `name`."""
        return next(line.split()[1] for line in self.said if line.split()[:1] == [name])

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def end(self) -> None:
        """Stop it."""
        self.process.send_signal(signal.SIGTERM)
        await self.process.wait()


async def caller(
    url: str, context: ssl.SSLContext, bodies: Callable[[int], str], numbers: asyncio.Queue[int]
) -> list[float]:
    """One connection that asks until the numbers are used up; seconds of each answer."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    taken = []
    while not numbers.empty():
        body = bodies(numbers.get_nowait())
        head = (
            f"POST /token HTTP/1.1\r\nhost: {host}\r\n"
            "content-type: application/x-www-form-urlencoded\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        start = time.perf_counter()
        writer.write((head + body).encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(answer.partition("content-length: ")[2].split("\r\n")[0])
        said = await reader.readexactly(length)
        taken.append(time.perf_counter() - start)
        if not answer.startswith("HTTP/1.1 200"):
            raise RuntimeError(said.decode())
    writer.close()
    return taken


async def measure(
    name: str, service: Process, ask: Callable[[int], Awaitable[list[list[float]]]], count: int
) -> dict[str, Any]:
    """Ask `count` times and print what that cost."""
    await ask(count // 10)  # warm
    cpu, start = service.cpu_s(), time.perf_counter()
    taken = sorted(t for some in await ask(count) for t in some)
    spent, wall = service.cpu_s() - cpu, time.perf_counter() - start
    found = {
        "what": name,
        "exchanges": len(taken),
        "per_cpu_second": round(len(taken) / spent),
        "goal": GOALS[name],
        "cpu_us_each": round(spent / len(taken) * 1e6),
        "wall_per_second": round(len(taken) / wall),
        "p50_ms": round(taken[len(taken) // 2] * 1000, 2),
        "p99_ms": round(taken[len(taken) * 99 // 100] * 1000, 2),
    }
    print(json.dumps(found), flush=True)
    return found


async def answer_introspection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An authorization server that calls every token active."""
    await reader.readuntil(b"\r\n\r\n")
    said = {"active": True, "sub": "ann", "aud": "shop", "scope": "read", "exp": 9_999_999_999}
    body = json.dumps(said).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()


async def known(url: str, context: ssl.SSLContext) -> None:
    """Return when the service knows the authority of the mesh's first workload."""
    async with asyncio.timeout(30):
        while True:
            try:
                async with httpx.AsyncClient(verify=context, trust_env=False) as http:
                    await http.get(f"{url}/jwks")
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                return


async def workload(client: dict[str, str], name: str) -> ssl.SSLContext:
    """A context with the certificate of a workload of this server."""
    async with anonymous(client, client["token"]) as api:
        server = Running(None, api, client)  # type: ignore[arg-type] # no control from outside
        node = await join(server, await server.token(name))
        registered = await node.register(name)
        key_pem, csr_pem = make_csr(spiffe(name))
        asked = {"instance": registered["instance"], "csr_pem": csr_pem}
        signed = await node.call("Sign", asked)
        await node.close()
    return client_context(signed["certificate_pem"], key_pem, client["ca_pem"])


async def run(root: Path, count: int) -> None:
    """Both measurements, in `root`."""
    authority, login = make_authority(), Signer(LOGIN)
    tls = server_context(authority, root, "127.0.0.1")
    idp = await asyncio.start_server(answer_introspection, "127.0.0.1", 0, ssl=tls)
    (root / "ca.pem").write_text(authority.pem)
    place = {"XDG_CONFIG_HOME": str(root / "config")}
    server = await Process.start(
        "try", "server", "run", "--role", "server", "--data", str(root / "d"),
        "--api", "127.0.0.1:0", "--node", "127.0.0.1:0", **place,
    )  # fmt: skip
    client = json.loads((root / "d" / "client.json").read_text())
    async with anonymous(client, client["token"]) as api:
        port = idp.sockets[0].getsockname()[1]
        text = DOCUMENTS.replace("PORT", str(port)).replace("ISSUER", LOGIN)
        files = [{"name": "bench.yaml", "text": text.replace("JWKS", login.jwks)}]
        applied = await api.post("/v1/apply", json={"files": files})
        applied.raise_for_status()
        names = ["127.0.0.1", "localhost", "::1"]
        role = {"name": "bench", "role": "tokens", "names": names}
        made = (await api.post("/v1/roles", json=role)).json()
    (root / "role.json").touch(mode=0o600)
    (root / "role.json").write_text(json.dumps(made))
    service = await Process.start(
        "issuer", "server", "run", "--role", "tokens", "--config", str(root / "role.json"),
        "--data", str(root / "t"), "--tokens", "127.0.0.1:0", "--token-rate", "1000000",
        "--jwks-allow", "127.0.0.0/8", "--jwks-ca", str(root / "ca.pem"), **place,
    )  # fmt: skip
    os.sched_setaffinity(service.process.pid, {max(os.sched_getaffinity(0))})
    context = await workload(client, "web")
    await known(service.value("tokens"), context)
    tokens = [
        login.sign({"typ": "at+jwt"}, sub=f"user-{n}", aud="shop", scope="read", exp=9_999_999_999)
        for n in range(100)
    ]
    base = {"grant_type": EXCHANGE, "audience": "items"}

    def opaque(number: int) -> str:
        said = {"subject_token": f"opaque-{number % 100}", "subject_token_type": ACCESS}
        return urlencode({**base, **said, "subject_issuer": "opaque"})

    def signed(number: int) -> str:
        return urlencode({**base, "subject_token": tokens[number % 100], "subject_token_type": JWT})

    def asking(bodies: Callable[[int], str]) -> Callable[[int], Awaitable[list[list[float]]]]:
        async def ask(times: int) -> list[list[float]]:
            numbers: asyncio.Queue[int] = asyncio.Queue()
            for number in range(times):
                numbers.put_nowait(number)
            url = service.value("tokens")
            callers = (caller(url, context, bodies, numbers) for _ in range(CONNECTIONS))
            return await asyncio.gather(*callers)

        return ask

    try:
        await measure("opaque to JWT", service, asking(opaque), count)
        await measure("JWT to JWT", service, asking(signed), count)
    finally:
        await service.end()
        await server.end()
        idp.close()


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="limen-bench-") as directory:
        asyncio.run(run(Path(directory), 2_000 if options.short else 20_000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
