"""A resource serialised once: its name, its version by content, the bytes put into a response."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

_RESOURCES_TAG = b"\x12"
"""Field 2, length-delimited: `DeltaDiscoveryResponse.resources`."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One resource, ready for any stream.

    `body` is field `resources` of a DeltaDiscoveryResponse with its tag and length: bodies are
    concatenated into a response without parsing. `version` is a hash of name and content. The body
    may hold a key: it is left out of `repr`.
    """

    name: str
    version: str
    body: bytes = field(repr=False)


NodeResources = dict[str, dict[str, Encoded]]
"""Type URL → resource name → resource."""


def pack(message: Message) -> any_pb2.Any:
    """`message` as Any, its maps in a fixed order so that equal messages give equal bytes."""
    return any_pb2.Any(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        value=message.SerializeToString(deterministic=True),
    )


def encode(name: str, message: Message, version: str = "") -> Encoded:
    """Serialise `message` as the resource `name`; `version`: another than that of its content."""
    packed = pack(message)
    digest = hashlib.sha256(f"{packed.type_url}\n{name}\n".encode() + packed.value)
    version = version or digest.hexdigest()[:24]
    resource = discovery_pb2.Resource(name=name, version=version, resource=packed)
    data = resource.SerializeToString(deterministic=True)
    return Encoded(name, version, _RESOURCES_TAG + _varint(len(data)) + data)


def decode(encoded: Encoded) -> discovery_pb2.Resource:
    """The resource inside `body`."""
    response = discovery_pb2.DeltaDiscoveryResponse.FromString(encoded.body)
    return response.resources[0]


def merged(*parts: Mapping[str, Mapping[str, Encoded]]) -> NodeResources:
    """All resources of `parts`; a later part replaces an earlier resource of the same name."""
    result: NodeResources = {}
    for part in parts:
        for type_url, resources in part.items():
            result.setdefault(type_url, {}).update(resources)
    return result


def _varint(value: int) -> bytes:
    """Base-128 varint (Protocol Buffers encoding)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
