"""A delta client of tests: keeps what it is sent, answers when it is told to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from limen.core.xds import types
from limen.core.xds.view import View


@dataclass(frozen=True)
class Item:
    """A resource whose content is its text."""

    name: str
    text: str

    @property
    def version(self) -> str:
        return hashlib.sha256(f"{self.name}={self.text}".encode()).hexdigest()[:8]

    @property
    def body(self) -> bytes:
        resource = discovery_pb2.Resource(name=self.name, version=self.version)
        resource.resource.value = self.text.encode()
        return discovery_pb2.DeltaDiscoveryResponse(resources=[resource]).SerializeToString()


def view(revision: str, **types_: dict[str, str]) -> View:
    """`view("1", CLUSTER={"a": "text"})`, with the type names of `limen.core.xds.types`."""
    return View(
        revision,
        {
            getattr(types, key): {name: Item(name, text) for name, text in texts.items()}
            for key, texts in types_.items()
        },
    )


def request(
    type_url: str,
    subscribe: tuple[str, ...] = (),
    unsubscribe: tuple[str, ...] = (),
    *,
    nonce: str = "",
    error: str | None = None,
    have: dict[str, str] | None = None,
) -> bytes:
    message = discovery_pb2.DeltaDiscoveryRequest(
        type_url=type_url,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        response_nonce=nonce,
        initial_resource_versions=have or {},
    )
    if error is not None:
        message.error_detail.CopyFrom(status_pb2.Status(code=3, message=error))
    return message.SerializeToString()


@dataclass
class Sent:
    """A response, read."""

    type_url: str
    nonce: str
    texts: dict[str, str]
    versions: dict[str, str]
    removed: tuple[str, ...]
    revision: str

    @property
    def kind(self) -> str:
        return self.type_url.rpartition(".")[2]


def read(data: bytes) -> Sent:
    response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
    return Sent(
        response.type_url,
        response.nonce,
        {r.name: r.resource.value.decode() for r in response.resources},
        {r.name: r.version for r in response.resources},
        tuple(response.removed_resources),
        response.system_version_info,
    )


@dataclass
class Copy:
    """What a client that applies responses has, by type."""

    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def apply(self, sent: Sent) -> None:
        texts = self.texts.setdefault(sent.type_url, {})
        versions = self.versions.setdefault(sent.type_url, {})
        for name in sent.removed:
            texts.pop(name, None)
            versions.pop(name, None)
        texts.update(sent.texts)
        versions.update(sent.versions)
