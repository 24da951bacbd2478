"""Plain local ports: compiled only where nobody else of the host can use them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.services.server_harness import permission, running

if TYPE_CHECKING:
    from pathlib import Path

PORTS = {"ports": [{"port": 9500, "service": "items"}]}
DOCUMENT = """
type: Dataplane
mesh: default
name: web-1
networking:
  address: 127.0.0.1
  inbound: [{port: 9080, servicePort: 8080, tags: {kuma.io/service: web}}]
  outbound:
    - {port: 9600, tags: {kuma.io/service: items}}
    - {port: 9500, tags: {kuma.io/service: items}}
"""


async def listeners(server: Any, node: Any, instance: str, **fields: Any) -> list[str]:
    """Names of the local listeners that `web` gets."""
    await node.register("web", instance, **fields)
    proxy = await node.open(f"default/web/{instance}")
    await proxy.until(lambda: proxy.has("out:default/items") and proxy.has("inbound:9080"))
    return sorted(n for found in proxy.resources.values() for n in found if n.startswith("local:"))


async def refusal(node: Any, **fields: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.register("web", "1", **fields)
    return caught.value.code(), json.loads(caught.value.details())["code"]


async def test_compiled_by_what_isolation_allows(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("web", "items")
        await node.register(
            "items", inbounds=[{"port": 9081, "service_port": 8081, "protocol": "http"}]
        )
        assert (await server.apply(permission("web", "items"))).is_success
        own = await listeners(server, node, "1", isolation="NetworkNamespace", local=PORTS)
        assert own == ["local:9500"]
        guarded = await listeners(server, node, "2", isolation="Uid", local=PORTS)
        assert guarded == ["local:9500"]
        await node.close()


async def test_refused_without_isolation_and_when_malformed(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("web")
        for weak in ({}, {"isolation": "None"}):
            found = await refusal(node, local=PORTS, **weak)
            assert found == (grpc.StatusCode.PERMISSION_DENIED, "isolation-too-weak")
        bad: list[Any] = [
            [{"port": 0, "service": "items"}],
            [{"port": 1}],
            [{"port": 1, "service": "Böse"}],
            [{"port": 1, "service": "a"}, {"port": 1, "service": "b"}],
            [{"port": n + 1, "service": "a"} for n in range(33)],
            "9500",
        ]
        for ports in bad:
            code, _ = await refusal(node, local={"ports": ports}, isolation="NetworkNamespace")
            assert code is grpc.StatusCode.INVALID_ARGUMENT, ports
        await node.close()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"isolation": "Uid"}, []),
        ({"isolation": "Uid", "local": PORTS}, ["local:9500"]),
        ({"isolation": "NetworkNamespace"}, ["local:9500", "local:9600"]),
        ({"isolation": "NetworkNamespace", "local": PORTS}, ["local:9500", "local:9600"]),
    ],
)
async def test_a_documents_ports_are_held_back_where_others_could_use_them(
    tmp_path: Path, fields: dict[str, Any], expected: list[str]
) -> None:
    async with running(tmp_path) as server:
        node = await server.join("web", "items")
        await node.register(
            "items", inbounds=[{"port": 9081, "service_port": 8081, "protocol": "http"}]
        )
        applied = await server.apply(permission("web", "items"), DOCUMENT)
        assert applied.is_success, applied.text
        assert await listeners(server, node, "web-1", **fields) == expected
        await node.close()
