"""Certificates that are given by hand: who gets them, what is refused, where keys never stand."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from tests.e2e.edge_harness import Company
from tests.services.server_harness import running
from tests.services.test_server_process import process, run

from limen.cli import get
from limen.cli.main import limen
from limen.core.xds import types
from limen.errors import InvalidInput
from limen.services.agent.checks import Level, Observed, check_given_certificates

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.server_harness import FakeProxy, Running

HOST = "myapp.mycompany.de"
SECOND = dt.timedelta(seconds=1)
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: NS}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8443, name: https, protocol: HTTPS}
    hosts: [myapp.mycompany.de]
    tls: {mode: SIMPLE, credentialName: mytls-credential}
"""
COMPANY = Company()


def secret(namespace: str = "istio-system", **more: Any) -> str:
    return COMPANY.secret("mytls-credential", HOST, namespace=namespace, **more)


def key_of(text: str) -> bytes:
    """The key, PEM, as a Secret holds it."""
    return base64.b64decode(text.split("tls.key:")[1].split(maxsplit=1)[0])


def traces_of(key: bytes) -> tuple[bytes, ...]:
    """What would give a key away: its lines, DER, and what a document says."""
    lines = key.splitlines()[1:-1]
    der = base64.b64decode(b"".join(lines))
    return (*lines, der[40:60], base64.b64encode(key)[60:120])


def has(data: bytes, key: bytes) -> bool:
    return any(trace in data for trace in traces_of(key))


async def gateway(server: Running, namespace: str) -> FakeProxy:
    """A registered gateway of this namespace, and its stream."""
    node = await server.join(
        "ingress", namespace=namespace, tags={"istio": "ingressgateway"}, gateway=True
    )
    await node.register("ingress", "edge-1", namespace=namespace, inbounds=[], gateway=True)
    return await node.open(f"{namespace}/ingress/edge-1")


async def test_no_stream_has_the_key_of_a_gateway_of_another_namespace(tmp_path: Path) -> None:
    """CVE-2021-34824: one Gateway document, two workloads, a Secret of one name for each."""
    async with running(tmp_path) as server:
        proxies = {ns: await gateway(server, ns) for ns in ("istio-system", "tenant")}
        secrets = {ns: secret(ns) for ns in proxies}
        applied = await server.apply(GATEWAY.replace("NS", "istio-system"), *secrets.values())
        assert applied.is_success, applied.text
        for namespace, proxy in proxies.items():
            name = f"edge:{namespace}/mytls-credential"
            await proxy.until(lambda p=proxy, n=name: n in p.resources[types.SECRET])
            assert has(proxy.received, key_of(secrets[namespace]))
        for namespace, other in (("istio-system", "tenant"), ("tenant", "istio-system")):
            assert not has(proxies[namespace].received, key_of(secrets[other]))
            assert not any(other in name for name in proxies[namespace].resources[types.SECRET])


def mixed(one: str, other: str) -> str:
    """A Secret with the certificate of one and the key of another."""
    return one.split("tls.key:", maxsplit=1)[0] + "tls.key:" + other.split("tls.key:")[1]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (mixed(secret(), secret()), "key-mismatch"),
        (secret(lifetime=-SECOND), "expired-certificate"),
    ],
    ids=["key of another", "expired"],
)
async def test_a_secret_that_cannot_serve_is_refused_and_the_old_one_stays(
    tmp_path: Path, bad: str, code: str
) -> None:
    async with running(tmp_path) as server:
        proxy = await gateway(server, "istio-system")
        await server.apply(GATEWAY.replace("NS", "istio-system"), secret())
        name = "edge:istio-system/mytls-credential"
        await proxy.until(lambda: name in proxy.resources[types.SECRET])
        kept = proxy.resources[types.SECRET][name]
        shown = (await server.api.get("/v1/resources/secrets")).json()
        refused = await server.apply(bad)
        assert (refused.status_code, code in refused.text) == (400, True)
        assert not has(refused.content, key_of(bad))
        (item,) = (await server.api.get("/v1/resources/secrets")).json()["items"]
        assert item["secret"].pop("refused").startswith(f"{code}: ")
        assert shown["items"][0]["secret"].pop("refused") == ""
        assert item == shown["items"][0]
        status = (await server.api.get("/v1/status")).json()
        finding = check_given_certificates(Observed(agent=None, server=status))
        assert finding.level is Level.WARN
        assert f"istio-system/mytls-credential: {code}: " in finding.found
        assert proxy.resources[types.SECRET][name] == kept
        assert (await server.apply(bad, dry_run=True)).status_code == 400
        assert (await server.apply(secret())).is_success
        (item,) = (await server.api.get("/v1/resources/secrets")).json()["items"]
        assert item["secret"]["refused"] == ""
    file = tmp_path / "secret.yaml"
    file.write_text(bad)
    validated = CliRunner().invoke(limen, ["validate", "-f", str(file)])
    assert (validated.exit_code, code in validated.output) == (1, True)
    assert not has(validated.output.encode(), key_of(bad))


async def test_a_certificate_that_ends_while_it_is_stored_is_shown(tmp_path: Path) -> None:
    """It goes on being served: clients say more than a closed port. `check` fails because of it."""
    async with running(tmp_path) as server:
        proxy = await gateway(server, "istio-system")
        short = secret(lifetime=3 * SECOND)
        applied = await server.apply(GATEWAY.replace("NS", "istio-system"), short)
        assert applied.is_success, applied.text
        await proxy.until(lambda: proxy.has("edge:istio-system/mytls-credential"))
        async with asyncio.timeout(20):
            while True:
                status = (await server.api.get("/v1/status")).json()
                (given,) = status["given_certificates"]
                if given["left_s"] < 0:
                    break
                await asyncio.sleep(0.1)  # time itself is awaited
        finding = check_given_certificates(Observed(agent=None, server=status))
        assert finding.level is Level.FAIL
        assert "istio-system/mytls-credential: expired" in finding.found
        (item,) = (await server.api.get("/v1/resources/secrets")).json()["items"]
        assert get._expiry(item).endswith("EXPIRED")
        assert proxy.has("edge:istio-system/mytls-credential")


def test_a_key_stands_nowhere_but_encrypted(tmp_path: Path) -> None:
    """Answers, audit, log, data and backup of a server that was given one, tried and replaced."""
    texts = [secret(), secret(), mixed(secret(), secret())]
    keys = [key_of(text) for text in texts]
    gate = tmp_path / "gateway.yaml"
    gate.write_text(GATEWAY.replace("NS", "istio-system"))
    files = [tmp_path / f"secret-{number}.yaml" for number in range(3)]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    assert all(has(f.read_bytes(), key) for f, key in zip(files, keys, strict=True))
    said = {}
    with process(tmp_path, "--log", "json"):
        for code, what in (
            (0, f"apply -f {files[0]} -f {gate} --dry-run"),
            (0, f"apply -f {files[0]} -f {gate}"),
            (0, f"apply -f {files[1]}"),
            (1, f"apply -f {files[2]}"),
            (0, "get secrets -o yaml"),
            (0, "get secret mytls-credential -n istio-system -o json"),
            (0, "delete secret mytls-credential -n istio-system"),
            (0, f"apply -f {files[1]}"),
            (0, "get audit -o json"),
            (0, f"server backup --data {tmp_path / 'd'} {tmp_path / 'backup'}"),
        ):
            try:
                found, output = run(tmp_path, *what.split())
            except InvalidInput as error:
                found, output = 1, f"{error!r} {error.hint} {error.diagnostics}"
            assert found == code, output
            said[what] = output.encode()
        assert b"mytls-credential" in said["get audit -o json"]
        places = [p for p in tmp_path.rglob("*") if p.is_file() and p not in files]
        assert {"log", "backup"} <= {p.name for p in places}
        said |= {str(place): place.read_bytes() for place in places}
    assert [place for place, text in said.items() if any(has(text, key) for key in keys)] == []
