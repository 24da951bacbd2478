"""The labels of registered workloads, found by the identity that a certificate proves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.adapters.policy_files import read_bounded
from limen.core.dialects.resources import read_resources
from limen.core.dialects.yaml_reader import MAX_BYTES
from limen.core.model.diagnostic import has_errors
from limen.core.model.mesh import MeshSettings
from limen.core.model.resource import MESH_SETTINGS
from limen.core.model.workload import Dataplane
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import Resource


def labels_by_identity(resources: Iterable[Resource]) -> dict[str, dict[str, str]]:
    """SPIFFE ID to labels. Where instances of one identity differ, what all of them have."""
    resources = list(resources)
    domains = {
        r.key.name: r.spec.trust_domain
        for r in resources
        if r.key.kind == MESH_SETTINGS and isinstance(r.spec, MeshSettings) and r.spec.trust_domain
    }
    found: dict[str, dict[str, str]] = {}
    for resource in resources:
        if not isinstance(resource.spec, Dataplane):
            continue
        domain = domains.get(resource.key.mesh, f"{resource.key.mesh}.mesh.local")
        account = resource.spec.service_account
        identity = f"spiffe://{domain}/ns/{resource.key.namespace}/sa/{account}"
        labels = dict(resource.labels)
        if identity in found:
            labels = {k: v for k, v in labels.items() if found[identity].get(k) == v}
        found[identity] = labels
    return found


def read_labels(files: Iterable[Path]) -> dict[str, dict[str, str]]:
    """SPIFFE ID to labels, of the Dataplanes in `files`. Raises `InvalidInput`."""
    found: list[Resource] = []
    findings: list[Diagnostic] = []
    for file in files:
        resources, _, said = read_resources(read_bounded(file, MAX_BYTES), str(file))
        found += resources
        findings += said
    if has_errors(findings):
        message = "the registrations cannot be read"
        raise InvalidInput(message, code="source-invalid", diagnostics=findings)
    return labels_by_identity(found)
