"""The agent's half towards the server: a full copy of what its proxy should have.

It subscribes to everything (`*`) of every type, and acknowledges to the server only what its proxy
has acknowledged. Two copies are kept: `resources`, which the proxy is offered (a new mapping after
each change, never changed in place), and the accepted ones, which are written to disk (`dump`) and
served when the server is away.

Use, one `Mirror` per instance, surviving reconnects of both sides:

    mirror = Mirror(); mirror.load(data)            # at start, if there is a file
    send(mirror.connected(node_id))                 # upstream stream opened: list of bytes
    mirror.on_response(data)                        # upstream message; then
    output = local.on_view(View(tag, merged(mirror.resources, own)))
    ... send output.responses to Envoy ...
    send(mirror.settle(local))                      # after every on_view and on_request of `local`:
                                                    # ACKs and NACKs for upstream
    if mirror.changed: write(mirror.dump())         # accepted resources changed

A configuration that the proxy accepted and then died of: `fall_back(earlier, reason)` to one that
it lived with (`accepted` of then), and open a new upstream stream. The versions in between are
answered with `reason` when the server sends them again, and are not offered.

`local` is the `DeltaStream` towards Envoy, a new one for each Envoy that connects; `own` are the
agent's resources (`svid`; `local-guard` only if the proxy has the listener `outbound`). While no
Envoy is connected nothing is acknowledged.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from limen.core.xds import types, wire
from limen.core.xds.events import Verdict
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.xds.delta import DeltaStream

_MAGIC = b"limen-mirror-1\n"
_DIGEST_BYTES = 32
_INVALID_ARGUMENT = 3
_BUNDLE = "bundle"
"""The one secret of the server's that holds no key (`envoy.names.BUNDLE`)."""


@dataclass(frozen=True, slots=True)
class Received:
    """A resource as it came. Bodies are passed on unchanged."""

    name: str
    version: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A response that is not yet answered: versions by name, None for a removal."""

    nonce: str
    versions: dict[str, str | None]


Resources = dict[str, dict[str, Received]]


class Mirror:
    """The copy of one proxy's resources."""

    def __init__(self) -> None:
        self.resources: Resources = {url: {} for url in types.SERVED}
        self.revision = ""
        self._accepted: Resources = {url: {} for url in types.SERVED}
        self.takes_policies = False
        """Whether the server has policies for a decision point: an older one knows no such type."""
        self._pending: dict[str, _Pending] = {}
        self._condemned: dict[tuple[str, str, str], str] = {}
        self.withheld: dict[tuple[str, str], str] = {}
        """Why the server's present version of a resource is not offered, by type and name."""
        self._changed = False

    @property
    def changed(self) -> bool:
        """Whether accepted resources changed since `dump`."""
        return self._changed

    @property
    def accepted(self) -> Resources:
        """A copy of what the proxy has accepted."""
        return {url: dict(by_name) for url, by_name in self._accepted.items()}

    def fall_back(self, earlier: Resources, reason: str, *, spare: frozenset[str]) -> bool:
        """Go back to `earlier`, but for the types in `spare`; False if that changes nothing.

        What is new since then is condemned: refused with `reason` in this very version.
        """
        changed = False
        for url in types.ORDER:
            before, offered = earlier[url], self.resources[url]
            kept = _versions(before)
            if url in spare or kept == _versions(offered) == _versions(self._accepted[url]):
                continue
            changed = True
            for name, version in _versions(offered).items():
                if kept.get(name) != version:
                    self._condemned[url, name, version] = reason
            self._accepted[url] = dict(before)
            self.resources = {**self.resources, url: dict(before)}
        self._pending.clear()
        self._changed |= changed
        return changed

    def connected(self, node_id: str) -> list[bytes]:
        """A new upstream stream: subscribe to everything, saying what is here already."""
        self._pending.clear()
        self.withheld.clear()
        asked = types.SERVED if self.takes_policies else types.ORDER
        return [self._first_request(url, node_id) for url in asked]

    def _first_request(self, url: str, node_id: str) -> bytes:
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=url,
            resource_names_subscribe=["*"],
            initial_resource_versions={
                name: received.version for name, received in self._accepted[url].items()
            },
        )
        request.node.id = node_id
        return request.SerializeToString()

    def on_response(self, data: bytes) -> None:
        """Take over a response. Raises InvalidInput (`xds-protocol`) if it cannot be one."""
        try:
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
        except DecodeError as error:
            raise wire.violation("the response is not a DeltaDiscoveryResponse") from error
        if response.type_url not in self.resources:
            raise wire.violation(f"resource type {response.type_url[:200]!a} was not asked for")
        offered = dict(self.resources[response.type_url])
        versions: dict[str, str | None] = dict.fromkeys(response.removed_resources)
        for name in response.removed_resources:
            offered.pop(name, None)
            self.withheld.pop((response.type_url, name), None)
        for resource in response.resources:
            versions[resource.name] = resource.version
            place = response.type_url, resource.name
            condemned = self._condemned.get((*place, resource.version))
            if condemned is None:
                offered[resource.name] = _received(resource)
                self.withheld.pop(place, None)
            else:
                self.withheld[place] = condemned
        self.resources = {**self.resources, response.type_url: offered}
        self._pending[response.type_url] = _Pending(response.nonce, versions)
        self.revision = response.system_version_info or self.revision

    def settle(self, local: DeltaStream) -> list[bytes]:
        """Answers for upstream, as far as the proxy behind `local` has decided."""
        answers = []
        for url in types.ORDER:
            pending = self._pending.get(url)
            if pending is None or self._undecided(url, pending, local):
                continue
            del self._pending[url]
            answers.append(self._answer(url, pending, local))
        return answers

    @property
    def policies_pending(self) -> bool:
        """Whether the server waits for an answer to a set of policies."""
        return types.POLICIES in self._pending

    def settle_policies(self, refusal: str) -> list[bytes]:
        """The answer for upstream once the decision point has the offered set, or refuses it."""
        pending = self._pending.pop(types.POLICIES, None)
        if pending is None:
            return []
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=types.POLICIES, response_nonce=pending.nonce
        )
        for name in pending.versions:
            if refusal:
                self._restore(types.POLICIES, name)
            else:
                self._accept(types.POLICIES, name)
        if refusal:
            error = status_pb2.Status(code=_INVALID_ARGUMENT, message=refusal)
            request.error_detail.CopyFrom(error)
        return [request.SerializeToString()]

    def _undecided(self, url: str, pending: _Pending, local: DeltaStream) -> bool:
        """A listener counts only when everything that belongs to it is in use too."""
        if url == types.LISTENER and not local.settled:
            return True
        return any(
            local.verdict(url, name, version) is Verdict.PENDING
            for name, version in pending.versions.items()
            if (url, name, version) not in self._condemned
        )

    def _answer(self, url: str, pending: _Pending, local: DeltaStream) -> bytes:
        messages = []
        for name, version in pending.versions.items():
            rejection = local.rejection(url, name)
            condemned = self._condemned.get((url, name, version or ""))
            if condemned is not None:
                messages.append(f"{name}: {condemned}")
            elif version is not None and rejection is not None and rejection.version == version:
                messages.append(rejection.message)
                self._restore(url, name)
            else:
                self._accept(url, name)
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=url, response_nonce=pending.nonce)
        if messages:
            error = status_pb2.Status(code=_INVALID_ARGUMENT, message="; ".join(messages))
            request.error_detail.CopyFrom(error)
        return request.SerializeToString()

    def _accept(self, url: str, name: str) -> None:
        offered = self.resources[url].get(name)
        accepted = self._accepted[url].get(name)
        if offered is None:
            self._changed |= self._accepted[url].pop(name, None) is not None
        elif accepted is None or accepted.version != offered.version:
            self._accepted[url][name] = offered
            self._changed = True

    def _restore(self, url: str, name: str) -> None:
        offered = dict(self.resources[url])
        accepted = self._accepted[url].get(name)
        if accepted is None:
            offered.pop(name, None)
        else:
            offered[name] = accepted
        self.resources = {**self.resources, url: offered}

    def dump(self) -> bytes:
        """The accepted resources, with a checksum. They hold no private key (see `private`)."""
        self._changed = False
        parts = []
        for url, resources in self._accepted.items():
            kept = (r.body for r in resources.values() if not _is_private(url, r.name))
            parts.append(wire.build_response(url, "", kept, (), self.revision))
        payload = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return _MAGIC + hashlib.sha256(payload).digest() + payload

    def private(self) -> bytes:
        """The accepted secrets that `dump` leaves out; b"" if there are none. Never log them."""
        kept = [
            r.body
            for r in self._accepted[types.SECRET].values()
            if _is_private(types.SECRET, r.name)
        ]
        return wire.build_response(types.SECRET, "", kept, (), self.revision) if kept else b""

    def load_private(self, data: bytes) -> None:
        """Take over what `private` gave, after `load`."""
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
        received = {r.name: _received(r) for r in response.resources}
        self._accepted[types.SECRET] = {**self._accepted[types.SECRET], **received}
        self.resources = {
            **self.resources,
            types.SECRET: {**self.resources[types.SECRET], **received},
        }

    def load(self, data: bytes) -> None:
        """Take over what `dump` wrote. Raises InvalidInput (`mirror-damaged`); nothing changes."""
        digest_end = len(_MAGIC) + _DIGEST_BYTES
        payload = data[digest_end:]
        if (
            not data.startswith(_MAGIC)
            or hashlib.sha256(payload).digest() != data[len(_MAGIC) : digest_end]
        ):
            raise InvalidInput(
                "the saved configuration is damaged",
                code="mirror-damaged",
                hint="delete the file; the server sends it again",
            )
        while payload:
            end = 8 + int.from_bytes(payload[:8], "big")
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(payload[8:end])
            received = {r.name: _received(r) for r in response.resources}
            self._accepted[response.type_url] = received
            self.resources[response.type_url] = dict(received)
            self.revision = response.system_version_info
            payload = payload[end:]


def _versions(resources: dict[str, Received]) -> dict[str, str]:
    return {name: received.version for name, received in resources.items()}


def _received(resource: discovery_pb2.Resource) -> Received:
    response = discovery_pb2.DeltaDiscoveryResponse(resources=[resource])
    return Received(resource.name, resource.version, response.SerializeToString())


def _is_private(url: str, name: str) -> bool:
    """Every secret but the trust bundle may hold a key."""
    return url == types.SECRET and name != _BUNDLE
