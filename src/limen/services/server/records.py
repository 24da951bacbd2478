"""Resources as the store keeps them, and back.

A resource's record is `{"document": stored document or null, "registration": {...} or null}`. The
second is for a Dataplane only: what the node that runs it said. One of the two is always there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from limen.core.dialects import document_from_stored, to_resource
from limen.core.model.decision import DecisionPolicy
from limen.core.model.resource import (
    ATTRIBUTE_SOURCE,
    AUTHORIZATION_POLICY,
    CUTOVER,
    DATAPLANE,
    DESTINATION_RULE,
    GATEWAY,
    GRPC_ROUTE,
    HTTP_ROUTE,
    ISTIO_GATEWAY,
    MESH,
    MESH_SETTINGS,
    MESH_TRAFFIC_PERMISSION,
    PEER_AUTHENTICATION,
    REFERENCE_GRANT,
    REGO_POLICY,
    REQUEST_AUTHENTICATION,
    SECRET,
    TLS_ROUTE,
    TOKEN_EXCHANGE_POLICY,
    TRAFFIC_PERMISSION,
    TRUSTED_ISSUER,
    USER_CONTEXT,
    VIRTUAL_SERVICE,
    XACML_POLICY,
    Resource,
)
from limen.core.model.workload import Cutover, Dataplane
from limen.core.plan.node import LocalSide
from limen.errors import InvalidInput, NotFound
from limen.services.server.registrations import dataplane_of, parse_place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue
    from limen.core.model.resource import ResourceKey

USER_KINDS = (
    MESH,
    MESH_SETTINGS,
    DATAPLANE,
    TRAFFIC_PERMISSION,
    MESH_TRAFFIC_PERMISSION,
    AUTHORIZATION_POLICY,
    PEER_AUTHENTICATION,
    REQUEST_AUTHENTICATION,
    ISTIO_GATEWAY,
    VIRTUAL_SERVICE,
    DESTINATION_RULE,
    GATEWAY,
    HTTP_ROUTE,
    GRPC_ROUTE,
    TLS_ROUTE,
    REFERENCE_GRANT,
    SECRET,
    TRUSTED_ISSUER,
    TOKEN_EXCHANGE_POLICY,
    USER_CONTEXT,
    XACML_POLICY,
    REGO_POLICY,
    ATTRIBUTE_SOURCE,
)
"""What an operator may write. Everything else in the store is the server's own."""
OTHERS = "proxies, services, nodes, tokens, certificates and audit"
"""State that is not a resource, as the command line names it."""
SNAPSHOT_KINDS = frozenset({*USER_KINDS, CUTOVER})
"""What the compiler reads."""


def parse_kind(text: str) -> str:
    """The full kind of a name of any case, singular or plural. Raises NotFound with the list."""
    lower = text.lower()
    for kind in USER_KINDS:
        short = kind.rpartition("/")[2].lower()
        if lower in {kind.lower(), short, f"{short}s", f"{short}es", f"{short[:-1]}ies"}:
            return kind
    names = ", ".join(sorted(k.rpartition("/")[2] for k in USER_KINDS))
    hint = f"one of {names}; `limen get` also shows {OTHERS}"
    raise NotFound(f"there is no kind {text[:80]!a}", code="unknown-kind", hint=hint)


def resource_of(key: ResourceKey, body: Mapping[str, JsonValue]) -> Resource:
    """The meaning of a record. Raises InvalidInput if this version does not understand it."""
    if key.kind == CUTOVER:
        return Resource(key, Cutover(int(cast("int", body["revision"]))))
    stored, registration = body.get("document"), body.get("registration")
    document = None if stored is None else _parse_stored(key, cast("dict[str, JsonValue]", stored))
    if registration is None:
        if document is None:
            raise InvalidInput(f"the record of {key} is empty", code="broken-record")
        if isinstance(document.spec, DecisionPolicy):
            epoch = int(cast("int", body.get("epoch", 0)))
            return replace(document, spec=replace(document.spec, epoch=epoch))
        return document
    return _registered(key, document, cast("dict[str, JsonValue]", registration))


def local_side(key: ResourceKey, body: Mapping[str, JsonValue]) -> LocalSide:
    """The local side that the node registered with a Dataplane; empty if none did."""
    registration = body.get("registration")
    if not isinstance(registration, dict):
        return LocalSide()
    return parse_place(cast("dict[str, JsonValue]", registration["place"]), key.mesh).local


def _parse_stored(key: ResourceKey, stored: Mapping[str, JsonValue]) -> Resource:
    resource, diagnostics = to_resource(document_from_stored(stored))
    if resource is None:
        raise InvalidInput(
            f"{key} is stored, but this version does not understand it",
            code="stored-not-understood",
            hint="start the version that stored it, mend the document, then upgrade",
            diagnostics=diagnostics,
        )
    return resource


def _registered(
    key: ResourceKey, document: Resource | None, registration: Mapping[str, JsonValue]
) -> Resource:
    place = parse_place(cast("dict[str, JsonValue]", registration["place"]), key.mesh)
    tags = cast("dict[str, str]", registration["tags"])
    own = document.spec if document is not None else None
    if own is not None and not isinstance(own, Dataplane):
        raise InvalidInput(f"the record of {key} is not a Dataplane", code="broken-record")
    account = str(registration["service_account"])
    spec = dataplane_of(place, tags, account, str(registration["node"]), own)
    if document is None:
        labels = {"app": place.instance.workload.name, **tags}
        return Resource(key, spec, tuple(sorted(labels.items())))
    return Resource(key, spec, document.labels, document.origin)
