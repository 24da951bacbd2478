"""A Dataplane that a node registered, as the document that would mean the same.

Applied as it is shown, it changes nothing: `status` is no policy, and what a node registered stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from limen.core.dialects.metadata import MESH_LABEL, OWN_SERVICE_ACCOUNT_LABEL
from limen.core.model.resource import SECRET
from limen.core.model.workload import PROTOCOL_TAG, Dataplane
from limen.services.server.records import resource_of
from limen.services.server.secret_bodies import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue
    from limen.core.model.resource import Resource, ResourceKey
    from limen.core.model.workload import Inbound

Document = dict[str, "JsonValue"]
_LOOPBACK = "127.0.0.1"


def document_of(key: ResourceKey, body: Mapping[str, JsonValue]) -> Document:
    """What is shown of a stored resource: as it was written, else as it is understood.

    `status` says which node registered it, and where it is.
    """
    stored = cast("Document | None", body.get("document"))
    registration = cast("Document | None", body.get("registration"))
    written = cast("Document", stored.get("body", stored)) if stored is not None else None
    if registration is None:
        return {**written, "data": HIDDEN} if written and key.kind == SECRET else written or {}
    understood = resource_of(key, body)
    document = _document(understood) if written is None else dict(written)
    document["status"] = _status(understood, registration)
    return document


def _status(resource: Resource, registration: Mapping[str, JsonValue]) -> Document:
    dataplane = cast("Dataplane", resource.spec)
    ports: list[JsonValue] = [i.port for i in dataplane.inbounds]
    return {
        "registeredBy": {"node": str(registration.get("node", ""))},
        "instance": str(dataplane.name),
        "address": dataplane.address,
        "ports": ports,
    }


def _document(resource: Resource) -> Document:
    dataplane = cast("Dataplane", resource.spec)
    labels: Document = {MESH_LABEL: resource.key.mesh, **dict(resource.labels)}
    if dataplane.service_account != dataplane.name.workload.name:
        labels[OWN_SERVICE_ACCOUNT_LABEL] = dataplane.service_account
    inbounds: list[JsonValue] = [_inbound(i) for i in dataplane.inbounds]
    networking: Document = {"address": dataplane.address, "inbound": inbounds}
    if dataplane.gateway:
        tags: Document = {**dict(dataplane.tags)}
        networking = {"address": dataplane.address, "gateway": {"type": "BUILTIN", "tags": tags}}
    spec: Document = {"networking": networking}
    if dataplane.probe_port is not None:
        spec["probes"] = _probes(dataplane, dataplane.probe_port)
    return {
        "apiVersion": "kuma.io/v1alpha1",
        "kind": "Dataplane",
        "metadata": {
            "name": resource.key.name,
            "namespace": resource.key.namespace,
            "labels": labels,
        },
        "spec": spec,
    }


def _inbound(inbound: Inbound) -> Document:
    tags: Document = {**dict(inbound.tags), PROTOCOL_TAG: inbound.protocol.value}
    shown: Document = {"port": inbound.port, "servicePort": inbound.service_port, "tags": tags}
    if inbound.service_address != _LOOPBACK:
        shown["serviceAddress"] = inbound.service_address
    if inbound.address:
        shown["address"] = inbound.address
    if inbound.name:
        shown["name"] = inbound.name
    return shown


def _probes(dataplane: Dataplane, port: int) -> Document:
    endpoints: list[JsonValue] = [
        {"path": p.path, "inboundPort": p.inbound_port, "inboundPath": p.inbound_path}
        for p in dataplane.probes
    ]
    return {"port": port, "endpoints": endpoints}
