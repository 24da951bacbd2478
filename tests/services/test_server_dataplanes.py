"""What nodes registered is shown as documents that mean the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.services.server_harness import running
from tests.services.test_server_apply import DATAPLANE

from limen.core.dialects import read_resources
from limen.core.model.workload import PROTOCOL_TAG, Dataplane

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.server_harness import Running

PLACES: tuple[dict[str, Any], ...] = (
    {},
    {"address": "2001:db8::7"},
    {
        "inbounds": [
            {"port": 9080, "service_port": 8080, "protocol": "grpc", "name": "api"},
            {"port": 9081, "service_port": 8081, "protocol": "http2"},
        ],
        "probe_port": 9990,
        "probes": [{"path": "/healthz", "inbound_port": 8080, "inbound_path": "/live"}],
    },
)


async def dataplanes(server: Running) -> tuple[str, list[Dataplane]]:
    """As YAML, and as the server understands them."""
    accept = {"accept": "application/yaml"}
    text = (await server.api.get("/v1/resources/dataplanes", headers=accept)).text
    found = server.control.mirror.snapshot.of_kind("kuma.io/Dataplane")
    return text, [r.spec for r in found if isinstance(r.spec, Dataplane)]


@pytest.mark.parametrize("place", PLACES, ids=["plain", "IPv6", "ports and probes"])
async def test_a_registered_dataplane_is_a_document_that_means_the_same(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items", tags={"version": "v1"})
        await node.register("items", **place)
        text, (understood,) = await dataplanes(server)
        document = yaml.safe_load(text)
        assert document["status"]["registeredBy"] == {"node": node.node_id}
        assert document["status"]["instance"] == "default/items/1"
        (read,), _, findings = read_resources(text.encode(), "shown.yaml")
        assert findings == ()
        assert isinstance(read.spec, Dataplane)
        assert without_protocol(replace(read.spec, name=understood.name, node=understood.node)) == (
            without_protocol(understood)
        )
        assert read.key.name == "items.1"
        assert ("app", "items") in read.labels
        applied = await server.apply(text)
        assert applied.status_code == 200, applied.text
        assert (await dataplanes(server))[1][0].address == understood.address
        await node.close()


def without_protocol(dataplane: Dataplane) -> Dataplane:
    """A registration has no tag for the protocol: a document says it so."""
    return replace(
        dataplane,
        inbounds=tuple(
            replace(i, tags=tuple(t for t in i.tags if t[0] != PROTOCOL_TAG))
            for i in dataplane.inbounds
        ),
    )


async def test_an_operators_document_stays_as_written_and_says_who_runs_it(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        await server.apply(DATAPLANE.format(name="d1", service="items"))
        before = (await server.api.get("/v1/resources/dataplane/d1")).json()["document"]
        assert "status" not in before
        node = await server.join("items")
        await node.register("items", "d1")
        after = (await server.api.get("/v1/resources/dataplane/d1")).json()["document"]
        status = after.pop("status")
        assert after == before
        assert status["registeredBy"] == {"node": node.node_id}
        assert (status["address"], status["ports"]) == ("127.0.0.1", [9080])
        again = await server.apply((await dataplanes(server))[0])
        assert again.json()["results"][0]["result"] == "unchanged"
        await node.close()
