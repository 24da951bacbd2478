"""References of the Gateway API: to gateways, to services, to secrets; and what grants them.

Source: kubernetes-sigs/gateway-api `apis/v1/shared_types.go`, `object_reference_types.go`,
`referencegrant_types.go`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import objects, text, whole
from limen.core.dialects.metadata import NAME
from limen.core.dialects.schema import Field, ListOf, Refused, Struct, Text, Whole
from limen.core.model import resource
from limen.core.model.gateway import GrantSource, GrantTarget, ReferenceGrant, SecretRef
from limen.core.model.names import parse_name
from limen.core.model.route import ParentRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.dialects.schema import Rule

GROUP = "gateway.networking.k8s.io"
NAMESPACE = Text("a namespace", max_length=253, parse=lambda t: parse_name(t, "namespace"))
PORT = Whole(1, 65535)
_GROUP = Text("a group", min_length=0, max_length=253)
_KIND = Text("a kind", max_length=63)
ROUTES = (resource.HTTP_ROUTE, resource.GRPC_ROUTE, resource.TLS_ROUTE)


def kind_of(value: JsonObject, group: str, kind: str) -> str:
    """`GROUP/Kind` that a reference names, with the given defaults; the core group is empty."""
    return f"{text(value, 'group', group)}/{text(value, 'kind', kind)}"


def _one_of(group: str, kind: str, known: tuple[str, ...], refused: Mapping[str, str]) -> Rule:
    """A rule: the kind that is named is one of `known`; `refused` says why others are not."""

    def check_kind(value: JsonObject, path: str, out: Findings) -> None:
        named = kind_of(value, group, kind)
        if named in known:
            return
        wanted = ", ".join(entry.removeprefix("/") for entry in known)
        place = child(path, "kind") if "kind" in value else child(path, "group")
        shown = show(named.removeprefix("/"), 120)
        if named in refused:
            out.error("refused-value", f"{shown} is not supported", place, refused[named])
        else:
            out.error("unknown-value", f"{shown} is not one of: {wanted}", place)

    return check_kind


_BACKENDS = {
    "multicluster.x-k8s.io/ServiceImport": "services of other clusters are not known here",
    "inference.networking.k8s.io/InferencePool": "name a Service",
    "gateway.networking.k8s.io/Backend": "backends outside the mesh are a later version",
}
_PARENTS = {
    "/Service": "routes between services of the mesh are a later version; name a Gateway",
    "gateway.networking.k8s.io/ListenerSet": "write the listeners into the Gateway",
    "networking.istio.io/Gateway": "Istio's Gateway takes VirtualServices only",
    "networking.istio.io/ServiceEntry": "services outside the mesh are a later version",
}
_CREDENTIALS = {"/ConfigMap": "put the certificate into a Secret, as ca.crt"}

PARENT = Struct(
    {
        "group": Field(_GROUP, note=f"{GROUP} if absent"),
        "kind": Field(_KIND, note="Gateway if absent"),
        "namespace": Field(NAMESPACE, note="the route's own if absent"),
        "name": Field(NAME, required=True),
        "sectionName": Field(NAME, note="one listener of it"),
        "port": Field(PORT, note="listeners on this port"),
    },
    (_one_of(GROUP, "Gateway", (resource.GATEWAY,), _PARENTS),),
)
BACKEND: dict[str, Field] = {
    "group": Field(_GROUP, note="empty if absent"),
    "kind": Field(_KIND, note="Service if absent"),
    "name": Field(NAME, required=True, note="a service of the mesh"),
    "namespace": Field(NAMESPACE, note="the route's own; for another a ReferenceGrant is needed"),
    "port": Field(PORT, required=True, note="of the service"),
    "weight": Field(Whole(0, 1_000_000), note="share of the sum, 1 if absent"),
}
BACKEND_KIND = _one_of("", "Service", (resource.SERVICE,), _BACKENDS)
CREDENTIAL = Struct(
    {
        "group": Field(_GROUP, note="empty if absent"),
        "kind": Field(_KIND, note="Secret if absent"),
        "name": Field(NAME, required=True),
        "namespace": Field(NAMESPACE, note="the gateway's own; else a ReferenceGrant is needed"),
    },
    (_one_of("", "Secret", (resource.SECRET,), _CREDENTIALS),),
)


def to_secret_ref(namespace: str, value: JsonObject) -> SecretRef:
    """A checked reference in a document of `namespace`."""
    return SecretRef(text(value, "namespace", namespace), text(value, "name"))


def check_parents(spec: JsonObject, path: str, out: Findings) -> None:
    """References to one gateway are told apart by the same fields (sectionName, port)."""
    seen: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for index, parent in enumerate(objects(spec, "parentRefs")):
        key = (text(parent, "namespace"), text(parent, "name"))
        section = (text(parent, "sectionName"), whole(parent, "port"))
        others = seen.setdefault(key, [])
        place = child(child(path, "parentRefs"), index)
        if section in others:
            message = f"the gateway {show(key[1])} is named twice"
            out.error("duplicate-name", message, place, "remove one, or name another listener")
        elif others and (bool(others[0][0]), bool(others[0][1])) != (
            bool(section[0]),
            bool(section[1]),
        ):
            out.error(
                "conflicting-fields",
                f"the gateway {show(key[1])} is named as a whole and in part",
                place,
                "write sectionName, or port, in each of them",
            )
        others.append(section)


def to_parents(namespace: str, spec: JsonObject) -> tuple[ParentRef, ...]:
    """The checked `parentRefs` of a route of `namespace`."""
    return tuple(
        ParentRef(
            namespace=text(parent, "namespace", namespace),
            name=text(parent, "name"),
            listener=text(parent, "sectionName"),
            port=whole(parent, "port"),
        )
        for parent in objects(spec, "parentRefs")
    )


_SOURCES = {
    "gateway.networking.k8s.io/TCPRoute": "TCP is a later version",
    "gateway.networking.k8s.io/UDPRoute": "HTTP, gRPC and TLS are routed",
}
REFERENCE_GRANT = Struct(
    {
        "from": Field(
            ListOf(
                Struct(
                    {
                        "group": Field(_GROUP, required=True),
                        "kind": Field(_KIND, required=True),
                        "namespace": Field(NAMESPACE, required=True),
                    },
                    (_one_of("", "", (resource.GATEWAY, *ROUTES), _SOURCES),),
                ),
                16,
            ),
            required=True,
            note="any of them",
        ),
        "to": Field(
            ListOf(
                Struct(
                    {
                        "group": Field(_GROUP, required=True, note='"" for core kinds'),
                        "kind": Field(_KIND, required=True),
                        "name": Field(NAME, note="all of the kind if absent"),
                    },
                    (_one_of("", "", (resource.SECRET, resource.SERVICE), _CREDENTIALS),),
                ),
                16,
            ),
            required=True,
            note="any of them, in the grant's own namespace",
        ),
    }
)


def to_reference_grant(spec: JsonObject) -> ReferenceGrant:
    """A checked spec."""
    return ReferenceGrant(
        sources=tuple(
            GrantSource(kind_of(entry, "", ""), text(entry, "namespace"))
            for entry in objects(spec, "from")
        ),
        targets=tuple(
            GrantTarget(kind_of(entry, "", ""), text(entry, "name"))
            for entry in objects(spec, "to")
        ),
    )


EXPERIMENTAL = Refused("it is an experimental field of the Gateway API")
