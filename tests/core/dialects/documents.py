"""Documents and shorthands that the tests of this room share."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

from limen.core.dialects import read_resources

if TYPE_CHECKING:
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import Resource

MESH = """\
apiVersion: kuma.io/v1alpha1
kind: Mesh
metadata:
  name: default
spec:
  mtls:
    enabledBackend: ca-1
    backends:
    - name: ca-1
      type: builtin
"""

DATAPLANE = """\
apiVersion: kuma.io/v1alpha1
kind: Dataplane
metadata:
  name: items-1
  labels: {app: items}
spec:
  networking:
    address: 10.0.0.1
    inbound:
    - port: 8443
      servicePort: 8080
      tags: {kuma.io/service: items, kuma.io/protocol: http}
"""

TRAFFIC_PERMISSION = """\
apiVersion: kuma.io/v1alpha1
kind: TrafficPermission
metadata:
  name: invoices-to-items
spec:
  sources:
  - match: {kuma.io/service: invoices}
  destinations:
  - match: {kuma.io/service: items}
"""

MESH_TRAFFIC_PERMISSION = """\
apiVersion: kuma.io/v1alpha1
kind: MeshTrafficPermission
metadata:
  name: allow-invoices
  labels: {kuma.io/mesh: default}
spec:
  targetRef:
    kind: Dataplane
    labels: {app: items}
  rules:
  - default:
      allow:
      - spiffeID: {type: Exact, value: spiffe://default.mesh.local/ns/default/sa/invoices}
"""

MESH_SETTINGS = """\
apiVersion: limen.dev/v1
kind: MeshSettings
metadata:
  name: default
spec:
  trustDomain: example.org
"""

ALL = (MESH, DATAPLANE, TRAFFIC_PERMISSION, MESH_TRAFFIC_PERMISSION, MESH_SETTINGS)


def read(text: str | bytes) -> tuple[tuple[Resource, ...], tuple[Diagnostic, ...]]:
    """Resources and findings of `text`."""
    data = text if isinstance(text, bytes) else dedent(text).encode()
    resources, _, diagnostics = read_resources(data, "f.yaml")
    return resources, diagnostics


def one(text: str) -> Resource:
    """The only resource of `text`, which has no finding."""
    resources, diagnostics = read(text)
    assert not diagnostics, [str(d) for d in diagnostics]
    assert len(resources) == 1
    return resources[0]


def codes(text: str | bytes) -> list[str]:
    """The codes of all findings; nothing may be understood where there is an error."""
    _, diagnostics = read(text)
    return [d.code for d in diagnostics]


def findings(text: str | bytes) -> list[tuple[int, str, str]]:
    """Line, path and code of all findings."""
    _, diagnostics = read(text)
    return [(d.line, d.path, d.code) for d in diagnostics]
