"""Gateways: what is found in their documents, what is assumed, what `explain` says."""

from __future__ import annotations

import re
from textwrap import dedent

import pytest
from tests.e2e.edge_harness import Company

from limen.core.compiler.checks import check
from limen.core.compiler.explain import explain
from limen.core.compiler.explanation import ExplainQuery, Explanation
from limen.core.compiler.graph import MeshGraph
from limen.core.dialects import read_resources
from limen.core.envoy.resources import extension_resources
from limen.core.model.diagnostic import Severity, has_errors
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.snapshot import Snapshot
from limen.core.plan.edge import TunnelChain

COMPANY = Company()
GATEWAY_POD = """
---
apiVersion: kuma.io/v1alpha1
kind: Dataplane
metadata: {name: edge-1, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {networking: {address: 10.0.0.3, gateway: {type: BUILTIN, tags: {kuma.io/service: ingress}}}}
"""
ITEMS = """
---
apiVersion: kuma.io/v1alpha1
kind: Dataplane
metadata: {name: items-1, labels: {app: items, version: v1}}
spec:
  networking:
    address: 10.0.0.4
    inbound:
    - {port: 8080, servicePort: 9080, tags: {kuma.io/service: items, kuma.io/protocol: http}}
"""
GATE = """
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gate, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [a.example]
    tls: {mode: SIMPLE, credentialName: cert}
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
"""
ROUTE = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: items, namespace: default}
spec:
  hosts: [a.example]
  gateways: [istio-system/gate]
  http:
  - match: [{uri: {prefix: /info}}]
    route: [{destination: {host: items}}]
"""
ALLOW = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: items, namespace: default}
spec:
  selector: {matchLabels: {app: items}}
  rules: [{from: [{source: {principals: [cluster.local/ns/istio-system/sa/ingress]}}]}]
"""
API = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: ingress, namespace: istio-system}
spec:
  gatewayClassName: limen
  listeners: [{name: web, port: 8080, protocol: HTTP, hostname: b.example,
    allowedRoutes: {namespaces: {from: All}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: default}
spec:
  parentRefs: [{name: ingress, namespace: istio-system}]
  hostnames: [b.example]
  rules: [{backendRefs: [{name: items, port: 9080}]}]
"""


def cert(*names: str, ca: bool = False) -> str:
    return COMPANY.secret("cert", *(names or ("a.example",)), ca=ca)


def snapshot(text: str) -> Snapshot:
    resources, _, findings = read_resources(dedent(text).encode(), "edge.yaml")
    assert not has_errors(findings), [str(f) for f in findings]
    return Snapshot({r.key: r for r in resources})


def found(text: str) -> set[tuple[str, bool]]:
    """Codes, and whether they are errors."""
    findings = check(snapshot(text))
    assert all(f.line and f.file for f in findings), findings
    return {(f.code, f.severity is Severity.ERROR) for f in findings}


WHOLE = GATEWAY_POD + ITEMS + GATE + ROUTE + ALLOW


def test_a_whole_gateway_has_no_finding() -> None:
    assert found(WHOLE + cert()) == set()
    assert found(GATEWAY_POD + ITEMS + API + ALLOW) == set()


def test_files_without_workloads_have_no_finding_either() -> None:
    assert found(GATE + ROUTE + ALLOW + cert()) == set()


TLS_API = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: ingress, namespace: istio-system}}
spec:
  gatewayClassName: limen
  listeners:
  - {{name: web, port: 8443, protocol: HTTPS, hostname: a.example, tls: {{{}}}}}
"""
TARGET = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: ingress}]"
SUBSETS = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: items, namespace: default}
spec: {host: items, subsets: [{name: v7, labels: {version: v7}}]}
"""
SECOND = GATE.replace("name: gate,", "name: second,")
CASES = {
    "gateway": (
        WHOLE.replace("istio-system/gate]", "istio-system/gone]"), "dangling-reference", True,
    ),
    "listener": (
        ITEMS + GATEWAY_POD + ALLOW
        + API.replace("namespace: istio-system}]", "namespace: istio-system, sectionName: x}]"),
        "dangling-reference", True,
    ),
    "service": (WHOLE.replace("host: items", "host: nobody"), "unknown-service", False),
    "service port": (
        WHOLE.replace("host: items", "host: items, port: {number: 1}"), "dangling-reference", True,
    ),
    "subset": (
        WHOLE.replace("host: items", "host: items, subset: v7"), "dangling-reference", True,
    ),
    "secret unknown": (WHOLE, "missing-secret", False),
    "secret of another name": (
        WHOLE + cert().replace("name: cert", "name: other"), "missing-secret", True,
    ),
    "secret of another namespace": (
        WHOLE + cert().replace("istio-system", "default"), "missing-secret", True,
    ),
    "no authorities": (WHOLE.replace("SIMPLE", "MUTUAL") + cert(), "missing-authorities", True),
    "authorities without a certificate": (
        WHOLE + re.sub("  tls.(crt|key): .*\n", "", cert(ca=True)).replace(
            "kubernetes.io/tls", "Opaque"),
        "wrong-secret", True,
    ),
    "a certificate where authorities are wanted": (
        GATEWAY_POD + ITEMS + ALLOW + cert() + cert().replace("name: cert", "name: more")
        + TLS_API.format(
            "certificateRefs: [{name: cert}]")
        + "  tls: {frontend: {default: {validation: {caCertificateRefs: "
        "[{group: '', kind: Secret, name: more}]}}}}\n",
        "wrong-secret", True,
    ),
    "two certificates that cannot be told apart": (
        GATEWAY_POD + ITEMS + ALLOW + cert() + cert().replace("name: cert", "name: more")
        + TLS_API.format("certificateRefs: [{name: cert}, {name: more}]"),
        "duplicate-certificate", True,
    ),
    "a subset that nobody is in": (
        WHOLE.replace("host: items", "host: items, subset: v7") + SUBSETS + cert(),
        "empty-subset", False,
    ),
    "certificate of another name": (WHOLE + cert("z.example"), "certificate-name", False),
    "port taken": (
        WHOLE + cert() + SECOND.replace("number: 80,", "number: 81,"),
        "port-conflict", True,
    ),
    "plaintext and TLS": (
        WHOLE + cert() + SECOND.replace("443, name: https", "444, name: https").replace(
            "80, name: http, protocol: HTTP", "443, name: http, protocol: HTTP"),
        "port-conflict", True,
    ),
    "no host": (
        GATEWAY_POD + ITEMS + ALLOW + cert()
        + GATE.replace("['*']", "[c.example]") + ROUTE.replace("[a.example]", "[b.example]"),
        "no-matching-host", False,
    ),
    "other namespace": (
        WHOLE.replace("hosts: [a.example]\n    tls", "hosts: [shop/a.example]\n    tls").replace(
            "['*']", "['shop/*']") + cert(),
        "no-matching-host", False,
    ),
    "no gateway": (
        WHOLE.replace("selector: {istio: ingressgateway}", "selector: {istio: other}") + cert(),
        "matches-no-workload", False,
    ),
    "a sidecar": (
        WHOLE.replace("selector: {istio: ingressgateway}", "selector: {app: items}") + cert(),
        "not-a-gateway", True,
    ),
    "not allowed": (WHOLE.replace("sa/ingress", "sa/else") + cert(), "gateway-not-allowed", False),
    "no grant": (
        GATEWAY_POD + ITEMS + ALLOW
        + API.replace("name: r, namespace: default", "name: r, namespace: web").replace(
            "{name: items, port", "{name: items, namespace: default, port"),
        "missing-grant", True,
    ),
    "rewrite": (
        WHOLE.replace("  - match: [{uri: {prefix: /info}}]\n", "  - rewrite: {uri: /x}\n") + cert(),
        "rewrite-without-path", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_served_as_written_is_found(name: str) -> None:
    text, code, error = CASES[name]
    assert (code, error) in found(text)


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        (API.replace("name: ingress", "name: two").replace("b.example", "c.example"), True),
        (GATE.replace("443, name: https", "8080, name: web").replace("HTTPS", "HTTP").replace(
            "    tls: {mode: SIMPLE, credentialName: cert}\n", ""), True),
        (API.replace("name: ingress", "name: two").replace("8080", "8081"), False),
    ],
)  # fmt: skip
def test_a_policy_of_one_gateway_decides_for_no_other(other: str, *, refused: bool) -> None:
    """An ALLOW that its owner wrote for one Gateway must not open another on the same port."""
    named = ALLOW.replace("selector: {matchLabels: {app: items}}", TARGET)
    named = named.replace("name: items, namespace: default", "name: own, namespace: istio-system")
    two = other.replace(
        "gatewayClassName: limen\n",
        "gatewayClassName: limen\n  addresses: [{type: Hostname, value: ingress}]\n",
    )
    findings = found(GATEWAY_POD + ITEMS + ALLOW + API + two + named)
    assert (("port-conflict", True) in findings) is refused


def test_two_kinds_of_routes_on_one_host_are_refused() -> None:
    other = API[API.index("---\napiVersion", 5) :].replace("HTTPRoute", "GRPCRoute")
    assert ("route-conflict", True) in found(
        GATEWAY_POD + ITEMS + ALLOW + API + other.replace("name: r,", "name: g,")
    )


def test_a_rule_on_the_gateway_alone_is_told_apart_from_one_at_the_service() -> None:
    """The often published mistake: tokens are verified at the gateway, claims wanted behind it."""
    tokens = """
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: idp, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  jwtRules: [{issuer: https://id.example, jwksUri: https://id.example/keys}]
"""
    wants = ALLOW.replace("rules: [{", "rules: [{when: [{key: 'request.auth.claims[iss]', "
                          "values: [https://id.example]}], ")  # fmt: skip
    codes = found(GATEWAY_POD + ITEMS + GATE + ROUTE + wants + tokens + cert())
    assert ("claims-not-verified", False) in codes
    assert ("matches-no-workload", False) not in codes


def ask(text: str, **more: object) -> Explanation:
    query = {"caller": "anonymous", "callee": "istio-system/ingress", "assume": True, **more}
    return explain(snapshot(text), ExplainQuery(**query))  # type: ignore[arg-type] # a test's table


HOST = (("host", "a.example"),)


def test_explain_names_listener_route_and_destination() -> None:
    answer = ask(WHOLE + cert(), headers=HOST, path="/info/1?x=1", port=443)
    assert (answer.allowed, answer.status) == (True, 200)
    assert answer.listener == "istio-system/gate/https"
    assert answer.route is not None
    line = 1 + WHOLE.splitlines().index("  - match: [{uri: {prefix: /info}}]")
    assert (answer.route.kind, answer.route.name, answer.route.line) == (
        "VirtualService",
        "items",
        line,
    )
    assert answer.sent_to == ("default/items",)
    shown = answer.to_json()
    assert shown["sent_to"] == ["default/items"]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"path": "/other"}, 404),
        ({"path": "/info;x"}, 400),
        ({"path": "/info%2f"}, 400),
        ({"headers": (("host", "b.example"),)}, 0),  # no listener has this server name
        ({"headers": (("host", "b.example"),), "port": 80}, 404),
    ],
)
def test_explain_says_what_the_gateway_refuses(more: dict[str, object], status: int) -> None:
    query = {"headers": HOST, "path": "/info", "port": 443, **more}
    answer = ask(WHOLE + cert(), **query)
    assert (answer.allowed, answer.status) == (False, status)


def test_explain_finds_the_gateway_by_a_host() -> None:
    answer = ask(GATE + ROUTE + ALLOW + cert(), callee="a.example", path="/info")
    assert answer.allowed
    assert answer.callee == WorkloadName("default", "istio-system", "ingressgateway")
    assert "assumed to be a gateway" in answer.assumed[0]


ORDERS = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules: [{from: [{source: {namespaces: [sales]}}]}]
"""


def test_a_workload_that_a_policy_means_by_name_is_not_assumed_to_be_a_gateway() -> None:
    answer = ask(GATE + ROUTE + ALLOW + ORDERS, callee="shop/orders", caller="sales/crm")
    assert answer.allowed
    assert answer.rule is not None
    assert answer.rule.name == "orders"


def test_explain_wants_a_host_at_a_gateway() -> None:
    answer = ask(WHOLE + cert(), path="/info")
    assert not answer.allowed
    assert any("--header host=NAME" in note for note in answer.notes)


def test_explain_judges_policies_of_the_gateway_before_routes() -> None:
    closed = ALLOW.replace("name: items, namespace: default", "name: edge, namespace: istio-system")
    closed = closed.replace("app: items", "istio: ingressgateway")
    answer = ask(WHOLE + closed + cert(), headers=HOST, path="/info", port=443)
    assert (answer.allowed, answer.status) == (False, 403)
    assert answer.near_misses[0].rule.ref.name == "edge"


def test_changes_reach_the_plan_of_the_gateway() -> None:
    """Whatever an edge document says, `update` names the gateway that it concerns."""
    before = snapshot(GATEWAY_POD + ITEMS + GATE + ALLOW)
    after = snapshot(WHOLE + cert())
    graph = MeshGraph("default", before.resources.values())
    name = InstanceName(WorkloadName("default", "istio-system", "ingress"), "edge-1")
    new = [r for key, r in after.resources.items() if key not in before.resources]
    for resource in new:
        assert name in graph.update([resource]).instances, resource.key
    whole = MeshGraph("default", after.resources.values())
    assert graph.plan(name) == whole.plan(name)
    gone = next(r.key for r in new if r.key.name == "items")
    assert name in graph.update([gone]).instances


def test_a_narrowed_policy_of_the_gateway_closes_what_is_open() -> None:
    closed = ALLOW.replace("name: items, namespace: default", "name: edge, namespace: istio-system")
    closed = closed.replace("app: items", "istio: ingressgateway")
    graph = MeshGraph("default", snapshot(WHOLE + cert()).resources.values())
    (policy,) = snapshot(closed).resources.values()
    gateway = WorkloadName("default", "istio-system", "ingress")
    assert graph.update([policy]).narrowed == {gateway}


def test_a_secret_reaches_only_the_gateway_that_needs_it() -> None:
    """CVE-2021-34824: a secret of one tenant is never served for another."""
    other = GATEWAY_POD.replace("edge-1", "edge-2").replace("istio-system", "tenant")
    graph = MeshGraph("default", snapshot(WHOLE + other + cert()).resources.values())
    own = graph.plan(InstanceName(WorkloadName("default", "istio-system", "ingress"), "edge-1"))
    foreign = graph.plan(InstanceName(WorkloadName("default", "tenant", "ingress"), "edge-2"))
    sidecar = graph.plan(InstanceName(WorkloadName("default", "default", "items"), "items-1"))
    assert own.edge is not None
    assert len(own.edge.secrets) == 1
    assert foreign.edge is not None
    assert foreign.edge.secrets == ()
    assert sidecar.edge is None


def test_nobody_in_the_mesh_gets_a_way_to_the_gateway() -> None:
    graph = MeshGraph("default", snapshot(WHOLE + cert()).resources.values())
    plan = graph.plan(InstanceName(WorkloadName("default", "default", "items"), "items-1"))
    assert plan.edges == ()


def test_secrets_that_no_file_holds_are_assumed_for_questions_only() -> None:
    answer = ask(GATE + ROUTE + ALLOW, headers=HOST, path="/info", port=443)
    assert answer.allowed
    assert any("assumed to be there" in sentence for sentence in answer.assumed)
    served = MeshGraph("default", snapshot(WHOLE).resources.values())
    plan = served.plan(InstanceName(WorkloadName("default", "istio-system", "ingress"), "edge-1"))
    assert plan.edge is not None
    assert [listener.port for listener in plan.edge.listeners] == [80]


def test_what_looks_at_requests_neither_opens_nor_vanishes_where_none_is_seen() -> None:
    """An HTTP-only DENY on a port that passes connections on denies all of them."""
    bank = ITEMS.replace("protocol: http", "protocol: tls")
    rules = ALLOW.replace("rules: [{", "rules: [{to: [{operation: {notPaths: [/x]}}], ")
    name = InstanceName(WorkloadName("default", "default", "items"), "items-1")
    allow = MeshGraph("default", snapshot(bank + rules).resources.values()).plan(name)
    (layer,) = allow.inbounds[0].policy.layers
    assert layer.allows
    assert layer.rules == ()
    deny = rules.replace("spec:", "spec:\n  action: DENY")
    denied = MeshGraph("default", snapshot(bank + deny).resources.values()).plan(name)
    (rule,) = denied.inbounds[0].policy.layers[0].rules
    assert "Path" not in repr(rule.condition)


def test_a_tls_route_passes_connections_on_to_a_port_that_ends_tls() -> None:
    documents = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: ingress, namespace: istio-system}
spec:
  gatewayClassName: limen
  listeners: [{name: t, port: 8443, protocol: TLS, hostname: '*.example', tls: {mode: Passthrough},
    allowedRoutes: {namespaces: {from: All}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: r, namespace: default}
spec:
  parentRefs: [{name: ingress, namespace: istio-system}]
  hostnames: [b.example]
  rules: [{backendRefs: [{name: items, port: 9080}]}]
"""
    bank = ITEMS.replace("protocol: http", "protocol: tls")
    assert found(GATEWAY_POD + bank + documents + ALLOW) == set()
    closing = ALLOW.replace("namespace: default", "namespace: istio-system")
    closing = closing.replace("selector: {matchLabels: {app: items}}", "")
    everything = GATEWAY_POD + bank + documents + ALLOW + closing
    assert ("policy-on-tunnel", True) in found(everything)
    closed = MeshGraph("default", snapshot(everything).resources.values())
    shut = closed.plan(InstanceName(WorkloadName("default", "istio-system", "ingress"), "edge-1"))
    assert shut.edge is not None
    assert shut.edge.listeners == ()
    assert ("wrong-protocol", True) in found(GATEWAY_POD + ITEMS + documents + ALLOW)
    graph = MeshGraph(
        "default", snapshot(GATEWAY_POD + bank + documents + ALLOW).resources.values()
    )
    plan = graph.plan(InstanceName(WorkloadName("default", "istio-system", "ingress"), "edge-1"))
    assert plan.edge is not None
    (listener,) = plan.edge.listeners
    (chain,) = listener.chains
    assert isinstance(chain, TunnelChain)
    # nobody asks for filters of a port without requests: what is sent must be confirmed
    assert set(extension_resources(plan)) == set()
    assert chain.server_names == ("b.example",)
    assert [part.endpoints[0].port for part in plan.edge.parts] == [8080]


def test_a_mesh_may_keep_gateways_to_the_namespace_of_their_workload() -> None:
    """Otherwise who may write a Gateway anywhere claims hosts of the shared edge."""
    foreign = GATE.replace("name: gate, namespace: istio-system", "name: gate, namespace: evil")
    settings = """
---
apiVersion: limen.dev/v1
kind: MeshSettings
metadata: {name: default}
spec: {gateways: {scopeToNamespace: true}, rootNamespace: root}
"""
    name = InstanceName(WorkloadName("default", "istio-system", "ingress"), "edge-1")
    for gate, extra, ports in (
        (foreign, "", [80]),
        (foreign, settings, []),
        (GATE, settings, [80]),
        (foreign.replace("namespace: evil", "namespace: root"), settings, [80]),
    ):
        resources = snapshot(GATEWAY_POD + gate + extra).resources
        plan = MeshGraph("default", resources.values()).plan(name)
        assert plan.edge is not None
        assert [listener.port for listener in plan.edge.listeners] == ports
