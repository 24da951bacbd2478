"""The delta ADS relay of one instance: the server's copy, the agent's own secrets, one Envoy.

Joins the two halves of core/xds: `Mirror` towards the server, `DeltaStream` towards Envoy. No I/O:
messages come in as bytes and leave through the `send` functions of whoever is connected.
Secrets of the agent are merged on the way to Envoy, never sent upstream, never written down.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from limen.core.envoy.policies import SET, content_of
from limen.core.xds import types
from limen.core.xds.client import Mirror
from limen.core.xds.delta import DeltaStream
from limen.core.xds.events import Confirmed, Rejected
from limen.core.xds.view import View
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.core.envoy.encoded import Encoded
    from limen.core.xds.client import Resources
    from limen.core.xds.events import Output
    from limen.core.xds.view import Encoded as AnyEncoded

    Send = Callable[[bytes], None]

_log = logging.getLogger("limen.agent")


class Relay:
    """`on_accepted` is called when there is something new for `dump`.

    `on_refused` is called with why Envoy refused, and with "" once it took a later revision.
    """

    def __init__(
        self,
        node_id: str,
        saved: bytes,
        private: bytes,
        on_accepted: Callable[[], None],
        on_refused: Callable[[str], None],
    ) -> None:
        self._node_id = node_id
        self._on_accepted = on_accepted
        self._on_refused = on_refused
        self._mirror = Mirror()
        self._own: dict[str, dict[str, Encoded]] = {}
        self._trusted_own: dict[tuple[str, str], Encoded] = {}
        self._local: DeltaStream | None = None
        self._to_envoy: Send | None = None
        self._to_server: Send | None = None
        self._refused_at: str | None = None
        self._hang_up: Callable[[], object] | None = None
        self._lived_with = self._mirror.accepted
        self.confirmed = False
        self.load(saved, private)

    def load(self, saved: bytes, private: bytes = b"") -> None:
        """Start from what `dump` and `private` gave an earlier agent; damaged data is none."""
        if not saved:
            return
        try:
            self._mirror.load(saved)
            self._mirror.load_private(private)
        except InvalidInput:
            _log.exception("%s: the saved configuration is not used", self._node_id)
        self._lived_with = self._mirror.accepted

    def dump(self) -> bytes:
        """What Envoy accepted last, without the agent's own."""
        return self._mirror.dump()

    def private(self) -> bytes:
        """What `dump` leaves out because it holds keys. Never log it."""
        return self._mirror.private()

    @property
    def envoy_connected(self) -> bool:
        """Whether Envoy's stream is open."""
        return self._local is not None

    @property
    def server_connected(self) -> bool:
        """Whether the stream to the server is open."""
        return self._to_server is not None

    @property
    def revision(self) -> str:
        """The revision that the server last sent."""
        return self._mirror.revision

    def offered(self, url: str, name: str) -> bytes | None:
        """A resource as the server sent it last (`Encoded.body`); None if there is none."""
        found = self._mirror.resources.get(url, {}).get(name)
        return None if found is None else found.body

    def set_own(self, url: str, resource: Encoded) -> None:
        """Supply or replace a resource of the agent's own."""
        self._own.setdefault(url, {})[resource.name] = resource
        self._view_changed()

    # -- a configuration that Envoy accepts and dies of

    @property
    def accepted(self) -> Resources:
        """What Envoy has accepted, to be given to `lived_with` when it has stood the test."""
        return self._mirror.accepted

    def lived_with(self, accepted: Resources) -> None:
        """Envoy has run with this for long enough to be trusted."""
        self._lived_with = accepted

    def fall_back(self, reason: str) -> bool:
        """Go back to what Envoy lived with, refusing what came since; False if that is nothing.

        Permissions are innocent until all else has been tried: an older one may allow more.
        """
        permissions = frozenset({types.EXTENSION})
        if not self._lived_with[types.LISTENER] or not any(
            self._mirror.fall_back(self._lived_with, reason, spare=spare)
            for spare in (permissions, frozenset[str]())
        ):
            return False
        self._refused_at = self._mirror.revision
        _log.error("%s: back to the configuration before: %s", self._node_id, reason)
        self._on_refused(reason)
        self._on_accepted()
        self._view_changed()
        if self._hang_up is not None:
            self._hang_up()  # the server is told on a new stream
        return True

    # -- policies of the decision point

    @property
    def policies(self) -> bytes:
        """The set that the server offers, or what was accepted last; b"" if it is none."""
        found = self._mirror.resources[types.POLICIES].get(SET)
        return b"" if found is None else content_of(found.body)

    @property
    def policies_pending(self) -> bool:
        """Whether the server waits for `settle_policies`."""
        return self._mirror.policies_pending

    def settle_policies(self, refusal: str) -> None:
        """The decision point has `policies`, or goes on with those before."""
        for answer in self._mirror.settle_policies(refusal):
            if self._to_server is not None:
                self._to_server(answer)
        if self._mirror.changed:
            self._on_accepted()

    # -- the server's side

    def open_server(
        self,
        send: Send,
        hang_up: Callable[[], object] | None = None,
        *,
        policies: bool = False,
    ) -> None:
        """A new upstream stream. `hang_up` ends it, for another to be opened.

        `policies`: whether the server has any for a decision point.
        """
        self._mirror.takes_policies = policies
        self._to_server = send
        self._hang_up = hang_up
        for request in self._mirror.connected(self._node_id):
            send(request)

    def close_server(self) -> None:
        """The upstream stream ended; what is there stays."""
        self._to_server = self._hang_up = None

    def on_server(self, data: bytes) -> None:
        """A message from the server. Raises InvalidInput if it breaks the protocol."""
        self._mirror.on_response(data)
        if withheld := set(self._mirror.withheld.values()):
            self._refused_at = self._mirror.revision
            self._on_refused("; ".join(sorted(withheld)))
        self._view_changed()

    # -- Envoy's side

    def open_envoy(self, send: Send) -> None:
        """A new stream of Envoy; an earlier one is void."""
        self._to_envoy = send
        self._local = DeltaStream(self._view())
        self.confirmed = False

    def close_envoy(self) -> None:
        """Envoy's stream ended."""
        self._to_envoy = self._local = None
        self.confirmed = False

    def on_envoy(self, data: bytes) -> None:
        """A message from Envoy. Raises InvalidInput if it breaks the protocol."""
        if self._local is not None:
            self._forward(self._local, self._local.on_request(data))

    # -- in common

    def _view(self) -> View:
        merged: dict[str, dict[str, AnyEncoded]] = {
            url: {**self._mirror.resources.get(url, {}), **self._own.get(url, {})}
            for url in types.ORDER
        }
        return View(self._mirror.revision, merged)

    def _view_changed(self) -> None:
        if self._local is not None:
            self._forward(self._local, self._local.on_view(self._view()))

    def _forward(self, local: DeltaStream, output: Output) -> None:
        """Send to Envoy, take note of its verdicts, and answer the server as far as decided."""
        if self._to_envoy is not None:
            for response in output.responses:
                self._to_envoy(response)
        for event in output.events:
            if isinstance(event, Rejected):
                found = (f"{r.name}: {r.message}" for r in event.rejections)
                self._refused_at = event.revision
                self._on_refused("; ".join(found))
            elif isinstance(event, Confirmed):
                self.confirmed = bool(self._mirror.resources[types.LISTENER])
                if self._refused_at not in {None, event.revision} and not self._mirror.withheld:
                    self._refused_at = None
                    self._on_refused("")
        before = self._versions()
        answers = self._mirror.settle(local)
        if self._to_server is not None:
            for answer in answers:
                self._to_server(answer)
        restored = self._restore_own(local)
        if restored or self._versions() != before:  # what was refused has been taken back
            self._forward(local, local.on_view(self._view()))
        if self._mirror.changed:
            self._on_accepted()

    def _versions(self) -> dict[tuple[str, str], str]:
        return {
            (url, name): received.version
            for url, by_name in self._mirror.resources.items()
            for name, received in by_name.items()
        }

    def _restore_own(self, local: DeltaStream) -> bool:
        """Go back to the own resource that Envoy took before, where it refused the present one."""
        restored = False
        for url, resources in self._own.items():
            for name, resource in resources.items():
                trusted = self._trusted_own.get((url, name))
                if local.rejection(url, name) is None:
                    if _held(local, url, resource):
                        self._trusted_own[(url, name)] = resource
                elif trusted is not None and trusted.version != resource.version:
                    resources[name] = trusted
                    restored = True
        return restored


def _held(local: DeltaStream, url: str, resource: Encoded) -> bool:
    return local.verdict(url, resource.name, resource.version).value == "applied"
