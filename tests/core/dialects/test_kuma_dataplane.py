"""Dataplane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.core.dialects.documents import DATAPLANE, codes, findings, one, read

from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.workload import Inbound, LocalPort, Probe, Protocol

if TYPE_CHECKING:
    from limen.core.model.workload import Dataplane

FULL = """\
type: Dataplane
mesh: blue
name: items-1
labels:
  k8s.kuma.io/namespace: shop
  k8s.kuma.io/service-account: items-sa
networking:
  address: 10.0.0.1
  inbound:
  - port: 8443
    servicePort: 8080
    serviceAddress: 127.0.0.2
    address: 10.0.0.2
    name: main
    state: Ready
    health: {ready: true}
    tags: {kuma.io/service: items, kuma.io/protocol: grpc, version: v1}
  - port: 9443
    servicePort: 9090
    tags: {kuma.io/service: items-admin, kuma.io/protocol: http2}
  outbound:
  - port: 10001
    tags: {kuma.io/service: users}
  - port: 10002
    address: '::1'
    tags: {kuma.io/service: invoices}
probes:
  port: 9000
  endpoints:
  - {inboundPort: 8080, inboundPath: /healthz, path: /8080/healthz}
"""


def dataplane(text: str) -> Dataplane:
    spec: Any = one(text).spec
    return spec


def test_every_honoured_field_is_read() -> None:
    spec = dataplane(FULL)
    assert spec.name == InstanceName(WorkloadName("blue", "shop", "items"), "items-1")
    assert spec.service_account == "items-sa"
    assert spec.address == "10.0.0.1"
    assert spec.inbounds == (
        Inbound(
            port=8443,
            service_port=8080,
            protocol=Protocol.GRPC,
            tags=(("kuma.io/protocol", "grpc"), ("kuma.io/service", "items"), ("version", "v1")),
            address="10.0.0.2",
            service_address="127.0.0.2",
            name="main",
        ),
        Inbound(
            port=9443,
            service_port=9090,
            protocol=Protocol.HTTP2,
            tags=(("kuma.io/protocol", "http2"), ("kuma.io/service", "items-admin")),
        ),
    )
    assert spec.outbounds == (
        LocalPort("127.0.0.1", 10001, (("kuma.io/service", "users"),)),
        LocalPort("::1", 10002, (("kuma.io/service", "invoices"),)),
    )
    assert spec.probe_port == 9000
    assert spec.probes == (Probe("/8080/healthz", 8080, "/healthz"),)
    assert spec.node == ""


def test_account_namespace_and_application_port_have_defaults() -> None:
    spec = dataplane(DATAPLANE.replace("      servicePort: 8080\n", ""))
    assert spec.service_account == "items"
    assert str(spec.name) == "default/items/items-1"
    assert spec.inbounds[0].service_port == 8443
    assert spec.inbounds[0].service_address == "127.0.0.1"


def test_a_document_cannot_say_which_node_runs_it() -> None:
    text = DATAPLANE.replace("name: items-1", "name: items-1\n  annotations: {limen.dev/node: n-7}")
    assert codes(text) == ["unknown-annotation"]


def test_a_namespace_of_kubernetes_is_read() -> None:
    resource = one(DATAPLANE.replace("name: items-1", "name: items-1\n  namespace: shop"))
    assert resource.key.namespace == "shop"


def test_without_protocol_http_is_assumed_and_said() -> None:
    [resource], [finding] = read(DATAPLANE.replace(", kuma.io/protocol: http", ""))
    spec: Any = resource.spec
    assert spec.inbounds[0].protocol is Protocol.HTTP
    assert finding.code == "protocol-assumed"


TAGS = "/spec/networking/inbound/0/tags"


@pytest.mark.parametrize(
    ("old", "new", "code", "path"),
    [
        ("service: items,", "service: ïtems,", "bad-value", f"{TAGS}/kuma.io~1service"),
        ("service: items,", "service: Items,", "invalid-name", f"{TAGS}/kuma.io~1service"),
        ("service: items,", "service: '*',", "bad-value", f"{TAGS}/kuma.io~1service"),
        ("service: items,", "service: on,", "wrong-type", f"{TAGS}/kuma.io~1service"),
        ("kuma.io/service: items,", "", "missing-field", TAGS),
        ("protocol: http", "protocol: tcp", "refused-value", f"{TAGS}/kuma.io~1protocol"),
        ("protocol: http", "protocol: kafka", "refused-value", f"{TAGS}/kuma.io~1protocol"),
        ("protocol: http", "protocol: HTTP", "unknown-value", f"{TAGS}/kuma.io~1protocol"),
        ("protocol: http", "protocol: http, version: 1.10", "wrong-type", f"{TAGS}/version"),
        ("port: 8443", "port: 0", "out-of-range", "/spec/networking/inbound/0/port"),
        ("port: 8443", "port: 65536", "out-of-range", "/spec/networking/inbound/0/port"),
        ("port: 8443", "port: '8443'", "wrong-type", "/spec/networking/inbound/0/port"),
        ("port: 8443", "port: 8443.0", "wrong-type", "/spec/networking/inbound/0/port"),
        ("port: 8443", "port: true", "wrong-type", "/spec/networking/inbound/0/port"),
        ("    - port: 8443\n      serv", "    - serv", "missing-field",
         "/spec/networking/inbound/0"),
        ("10.0.0.1", "example.org", "bad-address", "/spec/networking/address"),
        ("10.0.0.1", "'::'", "bad-address", "/spec/networking/address"),
        ("10.0.0.1", "10.0.0.01", "bad-address", "/spec/networking/address"),
        ("10.0.0.1", "'fe80::1%eth0'", "bad-address", "/spec/networking/address"),
        ("10.0.0.1", "224.0.0.1", "bad-address", "/spec/networking/address"),
        ("    address: 10.0.0.1\n", "", "missing-field", "/spec/networking"),
        ("address: 10.0.0.1", "address: 10.0.0.1\n    adress: 1", "unknown-field",
         "/spec/networking/adress"),
    ],
)  # fmt: skip
def test_bad_fields_are_refused(old: str, new: str, code: str, path: str) -> None:
    text = DATAPLANE.replace(old, new, 1)
    assert text != DATAPLANE
    assert (path, code) in [(p, c) for _, p, c in findings(text)]
    assert not read(text)[0]


@pytest.mark.parametrize(
    "field",
    ["transparentProxying", "admin", "advertisedAddress", "ingress"],
)
def test_what_is_not_honoured_in_networking_is_refused_by_name(field: str) -> None:
    text = DATAPLANE.replace("networking:", f"networking:\n    {field}: {{port: 1}}")
    assert findings(text) == [(8, f"/spec/networking/{field}", "refused-field")]


@pytest.mark.parametrize("field", ["metrics", "envoy"])
def test_what_is_not_honoured_at_the_top_is_refused_by_name(field: str) -> None:
    assert codes(f"{DATAPLANE}  {field}: {{a: 1}}\n") == ["refused-field"]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("state: NotReady", "refused-value"),
        ("state: Ignored", "refused-value"),
        ("health: {ready: false}", "refused-value"),
        ("health: {}", "missing-field"),
        ("serviceProbe: {tcp: {}}", "refused-field"),
        ("name: Main", "bad-value"),
        ("name: on", "wrong-type"),
        ("serviceAddress: localhost", "bad-address"),
    ],
)
def test_bad_inbound_fields_are_refused(field: str, code: str) -> None:
    assert codes(DATAPLANE.replace("servicePort", f"{field}\n      servicePort")) == [code]


@pytest.mark.parametrize(
    ("networking", "code"),
    [
        ("address: 10.0.0.1, inbound: []", "empty-value"),
        ("address: 10.0.0.1", "missing-field"),
        ("address: 10.0.0.1, inbound: {port: 1}", "wrong-type"),
        ("address: 10.0.0.1, inbound: [{port: 1}]", "missing-field"),
        ("address: 10.0.0.1, inbound: [{port: 1, tags: {}}]", "empty-value"),
        ("address: 10.0.0.1, inbound: [{port: 1, tags: [a]}]", "wrong-type"),
    ],
)
def test_a_dataplane_that_serves_nothing_is_refused(networking: str, code: str) -> None:
    text = f"{{type: Dataplane, mesh: default, name: a, networking: {{{networking}}}}}"
    assert codes(text) == [code]


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("port: 9443", "port: 8443\n    address: 10.0.0.2", "/networking/inbound/1/port"),
        ("port: 10002\n    address: '::1'", "port: 10001", "/networking/outbound/1/port"),
        ("port: 9000", "port: 9443", "/probes/port"),
        ("address: 10.0.0.2\n", "address: 127.0.0.2\n    # x\n", None),
        ("servicePort: 8080\n    serviceAddress: 127.0.0.2\n    address: 10.0.0.2",
         "serviceAddress: 10.0.0.2\n    address: 10.0.0.2", "/networking/inbound/0/port"),
    ],
)  # fmt: skip
def test_ports_used_twice_are_refused(old: str, new: str, path: str | None) -> None:
    text = FULL.replace(old, new, 1)
    assert text != FULL
    found = [p for _, p, c in findings(text) if c == "port-conflict"]
    assert found == ([] if path is None else [path])


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("port: 10001", "port: 10001\n    address: 10.0.0.9", "bad-address"),
        ("{kuma.io/service: users}", "{kuma.io/service: users, version: v1}", "refused-field"),
        ("{kuma.io/service: users}", "{version: v1}", "missing-field"),
        ("tags: {kuma.io/service: users}", "service: users", "refused-field"),
        ("tags: {kuma.io/service: users}", "backendRef: {kind: MeshService}", "refused-field"),
        ("inboundPort: 8080", "inboundPort: 8443", "dangling-reference"),
        ("path: /8080/healthz", "path: healthz", "bad-value"),
        ("path: /8080/healthz", "path: /a/../b", "bad-value"),
        ("path: /8080/healthz", "path: /a?b", "bad-value"),
        ("inboundPath: /healthz", "inboundPath: /%2e%2e/x", "bad-value"),
        ("inboundPath: /healthz, ", "", "missing-field"),
        ("name: main", "name: main\n    # x", None),
        ("port: 9443", "name: main\n    port: 9443", "duplicate-name"),
    ],
)
def test_bad_local_ports_probes_and_names_are_refused(old: str, new: str, code: str | None) -> None:
    text = FULL.replace(old, new, 1)
    assert text != FULL
    assert (code in codes(text)) if code else not codes(text)


def test_two_probes_of_one_path_are_refused() -> None:
    text = FULL + "  - {inboundPort: 9090, inboundPath: /x, path: /8080/healthz}\n"
    assert codes(text) == ["duplicate-name"]


GATEWAY = """\
apiVersion: kuma.io/v1alpha1
kind: Dataplane
metadata: {name: edge-1, namespace: istio-system, labels: {istio: ingressgateway}}
spec:
  networking:
    address: 10.0.0.3
    gateway: {type: BUILTIN, tags: {kuma.io/service: ingress, zone: a}}
"""


def test_a_gateway_has_tags_and_no_ports() -> None:
    resource = one(GATEWAY)
    spec = resource.spec
    assert spec.gateway
    assert spec.inbounds == ()
    assert spec.name == InstanceName(WorkloadName("default", "istio-system", "ingress"), "edge-1")
    assert spec.tags == (("kuma.io/service", "ingress"), ("zone", "a"))
    assert spec.service_account == "ingress"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("type: BUILTIN, ", "", "missing-field"),
        ("BUILTIN", "DELEGATED", "refused-value"),
        ("kuma.io/service: ingress, ", "", "missing-field"),
        ("    gateway", "    inbound: [{port: 1, tags: {kuma.io/service: a}}]\n    gateway",
         "refused-field"),
        ("    gateway: {type: BUILTIN, tags: {kuma.io/service: ingress, zone: a}}\n", "",
         "missing-field"),
    ],
)  # fmt: skip
def test_what_a_gateway_cannot_be_is_refused(old: str, new: str, code: str) -> None:
    assert code in codes(GATEWAY.replace(old, new))
