"""What conditions look at, taken out of a request once: `Facts`; and how each is shown."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.policy.decision import Json, Request

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NO_IDENTITY = "(no identity)"
NO_TOKEN = "(no token)"  # noqa: S105 - a text for people
ABSENT = "(absent)"
UNKNOWN = "(unknown)"
_SHOWN_CHARS = 200


@lru_cache(maxsize=4096)
def network(cidr: str) -> Network:
    """A CIDR, or one address; host bits are dropped. Raises ValueError."""
    return ipaddress.ip_network(cidr, strict=False)


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """An IP address; None if it is none or not known."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def in_any(address: Address | None, cidrs: Iterable[str]) -> bool:
    """Whether a known address lies in one of the CIDRs."""
    return address is not None and any(address in network(cidr) for cidr in cidrs)


class Facts:
    """One request, as conditions see it. `principal` None: no identity."""

    __slots__ = ("host", "host_without_port", "namespace", "ports_host", "principal", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.principal = None if request.principal is None else str(request.principal)
        self.namespace = "" if request.principal is None else request.principal.namespace
        self.host = request.host.lower()
        name, port = split_port(self.host)
        self.host_without_port = name
        self.ports_host = name if port == str(request.port) else self.host

    def hosts(self, *, any_port: bool) -> tuple[str, ...]:
        """The spellings of the authority that count; none if it is not known."""
        if not self.host:
            return ()
        return (self.host, self.host_without_port if any_port else self.ports_host)

    def claim_text(self, name: str) -> str:
        """A top-level claim that is a text; "" if there is none."""
        value = (self.request.claims or {}).get(name)
        return value if isinstance(value, str) else ""

    def claim(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The texts of a claim: itself, or the texts in the list that it is."""
        value = self._claim_value(path)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            return tuple(item for item in value if isinstance(item, str))
        return ()

    def _claim_value(self, path: tuple[str, ...]) -> Json:
        value: Json = dict(self.request.claims or {})
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def shown_claim(self, path: tuple[str, ...]) -> str:
        """The claim for people, cut short."""
        if self.request.claims is None:
            return NO_TOKEN
        texts = self.claim(path)
        if texts:
            return ", ".join(texts)[:_SHOWN_CHARS] or '""'
        value = self._claim_value(path)
        return ABSENT if value is None else f"{value!r} (no text)"[:_SHOWN_CHARS]

    def shown_principal(self) -> str:
        """The caller for people."""
        return self.principal or NO_IDENTITY

    def shown_request_principal(self) -> str:
        """`ISS/SUB` of the token for people."""
        if self.request.claims is None:
            return NO_TOKEN
        return f"{self.claim_text('iss')}/{self.claim_text('sub')}"[:_SHOWN_CHARS]


def split_port(authority: str) -> tuple[str, str]:
    """Host and port of an authority; no port: "". The brackets of an IPv6 address stay."""
    name, colon, port = authority.rpartition(":")
    if colon and (not port or (port.isascii() and port.isdigit())):
        return name, port
    return authority, ""
