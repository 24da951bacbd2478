"""A gateway of Istio's documents, on real traffic through real Envoys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tests.e2e.edge_harness import EdgeMesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALLOWED = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: items, namespace: default}
spec:
  selector: {matchLabels: {app: items}}
  rules: [{from: [{source: {principals: [cluster.local/ns/istio-system/sa/ingress]}}]}]
"""


def simple(edge: EdgeMesh) -> str:
    return (
        f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gate, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {edge.port(443)}, name: https, protocol: HTTPS}}
    hosts: [myapp.mycompany.de]
    tls: {{mode: SIMPLE, credentialName: mytls-credential}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: items, namespace: default}}
spec:
  hosts: [myapp.mycompany.de]
  gateways: [istio-system/gate]
  http:
  - match: [{{uri: {{prefix: /info}}}}]
    route: [{{destination: {{host: items}}}}]
"""
        + ALLOWED
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge() -> AsyncIterator[EdgeMesh]:
    async with EdgeMesh() as started:
        await started.serve("items")
        yield started


async def test_a_request_passes_the_gateway_and_arrives_by_its_identity(edge: EdgeMesh) -> None:
    await edge.start(simple(edge) + edge.company.secret("mytls-credential", "myapp.mycompany.de"))
    answer = await edge.get("/info/1?x=2", host="myapp.mycompany.de")
    assert answer.status == 200
    headers = dict(answer.json["headers"])
    assert answer.json["target"] == "/info/1?x=2"
    assert (
        "URI=spiffe://default.mesh.local/ns/istio-system/sa/ingress"
        in (headers["x-forwarded-client-cert"])
    )
    assert (await edge.get("/other", host="myapp.mycompany.de")).status == 404
