"""ipAddress and dnsName (core, A.2): address with mask and ports, name with ports."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

_PORTS = re.compile(r"(?:\d{1,5}-?\d{0,5}|-\d{1,5})", re.ASCII)
_NAME = re.compile(r"(?:\*\.)?(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.?)+|\*", re.ASCII)
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?:/\[?([^\[\]]*)\]?)?(?::(.*))?", re.ASCII | re.DOTALL)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class PortRange:
    """`low` to `high`, inclusive."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class IpAddress:
    """`address[/mask][:ports]`; `text` is how it was written."""

    address: Address
    mask: Address | None
    ports: PortRange | None
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class DnsName:
    """`name[:ports]`; the name (lower case) may begin with `*.`; `text` is how it was written."""

    name: str
    ports: PortRange | None
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text


def _ports(text: str) -> PortRange:
    """`n`, `n-`, `-n`, `n-m`. Raises ValueError."""
    if not _PORTS.fullmatch(text):
        raise ValueError("not a port or a range of ports")
    first, dash, last = text.partition("-")
    low = int(first) if first else 0
    high = (int(last) if last else 65_535) if dash else low
    if not low <= high <= 65_535:
        raise ValueError("no such range of ports")
    return PortRange(low, high)


def parse_ip_address(text: str) -> IpAddress:
    """IPv4 `a[/mask][:ports]` or IPv6 `[a][/[mask]][:ports]`. Raises ValueError."""
    if text.startswith("["):
        found = _BRACKETED.fullmatch(text)
        if found is None:
            raise ValueError("not [address] with an optional mask and ports")
        address, mask, ports = found.groups()
        read: type[Address] = ipaddress.IPv6Address
    else:
        rest, _, ports = text.partition(":")
        address, slash, mask = rest.partition("/")
        mask = mask if slash else None
        ports = ports if ":" in text else None
        read = ipaddress.IPv4Address
    return IpAddress(
        read(address),
        None if mask is None else read(mask),
        None if ports is None else _ports(ports),
        text,
    )


def parse_dns_name(text: str) -> DnsName:
    """`name[:ports]`, the first label may be `*`. Raises ValueError."""
    name, colon, ports = text.partition(":")
    if len(name) > 255 or not _NAME.fullmatch(name):
        raise ValueError("not a host name")
    return DnsName(name.lower(), _ports(ports) if colon else None, text)
