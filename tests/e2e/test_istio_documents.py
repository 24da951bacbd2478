"""Istio's documents, as people write them, through reader, compiler and a real Envoy.

Every cell of (caller, method, path, token, host) is asked; `explain` must say the same of it: the
status, and the rule that decides.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, replace
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.core.tokens.signing import ec_key, jwk, sign

from limen.core.compiler.explain import Explainer
from limen.core.compiler.explanation import ANONYMOUS, ExplainQuery
from limen.core.compiler.graph import MeshGraph
from limen.core.dialects import read_resources
from limen.core.envoy import names
from limen.core.model.diagnostic import has_errors
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.model.resource import DATAPLANE, Resource, ResourceKey
from limen.core.model.snapshot import Snapshot
from limen.core.model.workload import SERVICE_TAG, Dataplane, Inbound, Protocol
from limen.core.xds.events import Confirmed

from .envoy_harness import DOMAIN, Connection, TestMesh, Workload, client_tls, policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from limen.core.compiler.explanation import Explanation

ISSUER = "https://id.example"
RULE_HEADER = "x-limen-rule"
KEYS = json.dumps({"keys": [jwk(ec_key(), kid="1", alg="ES256")]})

SETTINGS = f"""
apiVersion: limen.dev/v1
kind: MeshSettings
metadata: {{name: default}}
spec: {{ruleHeader: {RULE_HEADER}}}
---
"""
TOKENS = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: login}}
spec:
  selector: {{matchLabels: {{app: items}}}}
  jwtRules:
  - issuer: {ISSUER}
    audiences: [shop]
    jwks: '{KEYS}'
---
"""
NOTHING = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-nothing, namespace: istio-system}
spec: {}
---
"""
PERMISSIVE = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mesh, namespace: istio-system}
spec: {mtls: {mode: PERMISSIVE}}
---
"""
PLAINTEXT = PERMISSIVE.replace("PERMISSIVE", "DISABLE")

WORKED_CASE = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: items}
spec:
  selector: {matchLabels: {app: items}}
  rules:
  - from:
    - source: {principals: [cluster.local/ns/default/sa/users]}
    - source: {namespaces: [bank, partner]}
    to:
    - operation: {methods: [GET], paths: ["/info*"]}
    - operation: {methods: [POST], paths: [/data]}
    when:
    - {key: "request.auth.claims[iss]", values: ["https://id.example"]}
"""
MANY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-strangers}
spec:
  action: DENY
  rules:
  - from: [{source: {notPrincipals: ["*"]}}]
    to: [{operation: {paths: ["/info/{*}"]}}]
  - to: [{operation: {hosts: [admin.example]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: groups}
spec:
  rules:
  - to: [{operation: {paths: [/info], notMethods: [POST]}}]
  - from: [{source: {notNamespaces: [bank]}}]
    when:
    - {key: "request.auth.claims[groups]", values: [staff]}
  - when:
    - {key: "request.auth.claims[scope]", notValues: [read]}
    - {key: request.auth.principal, values: ["*/ann"]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: later, annotations: {istio.io/dry-run: "true"}}
spec: {action: DENY, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: seen}
spec: {action: AUDIT, rules: [{}]}
"""
KUMA_TOO = """
---
apiVersion: kuma.io/v1alpha1
kind: TrafficPermission
metadata: {name: to-items}
spec:
  sources: [{match: {kuma.io/service: users}}]
  destinations: [{match: {kuma.io/service: items}}]
"""
OPEN = """
apiVersion: limen.dev/v1
kind: MeshSettings
metadata: {name: default}
spec: {ruleHeader: x-limen-rule, defaultAction: Allow}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-writes}
spec:
  action: DENY
  rules:
  - {from: [{source: {notRequestPrincipals: ["*"]}}], to: [{operation: {methods: [POST]}}]}
---
"""
REQUIRED = TOKENS.replace(
    "{name: login}", '{name: login, annotations: {limen.dev/token-required: "true"}}'
)

SETS = {
    "worked case": SETTINGS + NOTHING + TOKENS + WORKED_CASE,
    "token on nobody": SETTINGS + NOTHING + WORKED_CASE,
    "token required": SETTINGS + REQUIRED + WORKED_CASE,
    "permissive": SETTINGS + PERMISSIVE + TOKENS + MANY,
    "plaintext": SETTINGS + PLAINTEXT + TOKENS + MANY,
    "both families": SETTINGS + TOKENS + MANY + KUMA_TOO,
    "as in Istio": OPEN + TOKENS,
    "no document": SETTINGS,
}

CALLERS = {
    "users": SpiffeId(DOMAIN, "default", "users"),
    "bank/teller": SpiffeId(DOMAIN, "bank", "teller"),
    ANONYMOUS: None,
}
SPOTS = [
    ("GET", "/info", "items.mesh"),
    ("GET", "/info/1?x=/data", "items.mesh"),
    ("GET", "/x/../info", "items.mesh"),
    ("POST", "/data", "items.mesh"),
    ("POST", "/info", "items.mesh"),
    ("GET", "/data%2f", "items.mesh"),
    ("GET", "/%2e%2e;x/info", "items.mesh"),
    ("GET", "/info", "Admin.example:9"),
]
GOOD: dict[str, Any] = {"iss": ISSUER, "sub": "ann", "aud": ["web", "shop"]}
CLAIMS: list[dict[str, Any] | None] = [
    None,
    GOOD,
    {**GOOD, "sub": "bob", "groups": ["dev", "staff"], "scope": "read write"},
    {**GOOD, "groups": "staff", "scope": "write"},
    {**GOOD, "aud": "web"},
    {**GOOD, "iss": "https://id.example/"},
]


@dataclass(frozen=True)
class Cell:
    caller: str
    method: str
    target: str
    host: str
    claims: dict[str, Any] | None


def cells() -> Iterator[Cell]:
    for caller, spot, claims in itertools.product(CALLERS, SPOTS, CLAIMS):
        yield Cell(caller, *spot, claims)


def dataplane(name: str, namespace: str, port: int) -> Resource:
    workload = WorkloadName("default", namespace, name)
    inbound = Inbound(port, port, Protocol.HTTP, ((SERVICE_TAG, name),))
    spec = Dataplane(InstanceName(workload, f"{name}-1"), name, "127.0.0.1", (inbound,))
    key = ResourceKey(DATAPLANE, "default", namespace, f"{name}-1")
    return Resource(key, spec, (("app", name),))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[tuple[TestMesh, Workload]]:
    async with TestMesh() as mesh:
        yield mesh, await mesh.start("items", policy=policy())


def read(text: str, port: int) -> Snapshot:
    found, _, findings = read_resources(dedent(text).encode(), "istio.yaml")
    assert not has_errors(findings), findings
    places = [("items", "default"), ("users", "default"), ("teller", "bank")]
    resources = [*found, *(dataplane(n, ns, port + i) for i, (n, ns) in enumerate(places))]
    return Snapshot({r.key: r for r in resources})


async def enforce(workload: Workload, snapshot: Snapshot) -> None:
    """Guard the port as the compiler says."""
    graph = MeshGraph("default", snapshot.resources.values())
    instance = InstanceName(WorkloadName("default", "default", "items"), "items-1")
    (wanted,) = graph.plan(instance).inbounds
    kept = workload.plan.inbounds[0]
    service = {"service_address": kept.service_address, "service_port": kept.service_port}
    event = await workload.apply(inbounds=(replace(wanted, **service),))
    assert isinstance(event, Confirmed), event


async def ask(mesh: TestMesh, port: int, cell: Cell) -> tuple[int, str]:
    """Status and the name of the rule that decided; 0 if there is no connection."""
    identity = CALLERS[cell.caller]
    tls = None if identity is None else client_tls(mesh.authority.issue(identity))
    headers = []
    if cell.claims is not None:
        body = {"exp": int(time.time()) + 600, **cell.claims}
        token = sign({"alg": "ES256", "kid": "1"}, body, ec_key(), "ES256")
        headers.append(("authorization", f"Bearer {token}"))
    try:
        connection = await Connection.open(port, tls)
        answer = await connection.request(cell.method, cell.target, headers, host=cell.host)
    except (OSError, EOFError):
        return 0, ""
    connection.writer.transport.abort()
    return answer.status, answer.headers.get(RULE_HEADER, "")


def told(answer: Explanation) -> str:
    """How Envoy names the deciding rule, in part."""
    rule = answer.rule
    if rule is None:
        return ""
    return f"{rule.kind}/{rule.namespace}/{rule.name}/{rule.index:05d}"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", SETS)
async def test_every_cell_is_as_explained(world: tuple[TestMesh, Workload], name: str) -> None:
    mesh, workload = world
    snapshot = read(SETS[name], workload.port)
    await enforce(workload, snapshot)
    explainer = Explainer(snapshot)
    plaintext = "DISABLE" in SETS[name]
    seen: set[int] = set()
    for cell in cells():
        if plaintext and cell.caller != ANONYMOUS:
            continue  # callers in the mesh speak plaintext there too: the same request
        query = ExplainQuery(
            caller=cell.caller,
            callee="items",
            method=cell.method,
            path=cell.target,
            headers=(("host", cell.host),),
            claims=cell.claims,
        )
        answer = explainer.explain(query)
        status, rule = await ask(mesh, workload.port, cell)
        assert status == answer.status, (cell, answer, rule)
        if told(answer):
            assert told(answer) in names.rule_name(rule.replace("_", " ")).replace(" ", "_"), cell
        seen.add(status)
    assert len(seen) > 1, "the cells say nothing"
