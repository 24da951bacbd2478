"""What a server is told when it starts. A value: nothing here reads the environment."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING

from limen.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

Network = IPv4Network | IPv6Network
DEFAULT_API = "127.0.0.1:7443"
DEFAULT_NODE = "127.0.0.1:7444"


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen. `port` 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """`HOST:PORT` or `[IPv6]:PORT`. Raises InvalidInput (`invalid-address`)."""
    host, separator, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host.startswith("[") and host.endswith("]")
    well_formed = (
        separator
        and bare
        and bracketed == (":" in bare)
        and port.isascii()
        and port.isdecimal()
        and int(port) <= 65535
    )
    if not well_formed:
        raise InvalidInput(
            f"{text[:80]!a} is not an address", code="invalid-address", hint="write HOST:PORT"
        )
    return Address(bare, int(port))


def parse_network(text: str) -> Network:
    """`10.1.0.0/16`, or one address. Raises InvalidInput (`invalid-network`)."""
    try:
        return ip_network(text)
    except ValueError:
        raise InvalidInput(
            f"{text[:80]!a} is not a network",
            code="invalid-network",
            hint="write ADDRESS/BITS without host bits, or one address",
        ) from None


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of one server process.

    `data` holds everything it keeps; `kek` the file of the key that encrypts the keys in there
    (None: where `adapters.keys` puts it). `advertise`: host names and addresses by which operators
    and agents reach it; they go into its certificate, the first one into join tokens.
    `presence_grace_s`: an instance whose stream ended stays an endpoint that long. `quiet_s`: a
    node that says nothing for that long is taken for gone. `jwks_allowed`: networks that are not
    public and may be asked for key sets all the same; `jwks_ca_pem`: authorities of the providers
    of key sets, instead of the system's.
    """

    data: Path
    kek: Path | None = None
    api: Address = Address("127.0.0.1", 7443)
    node: Address = Address("127.0.0.1", 7444)
    advertise: tuple[str, ...] = ()
    log_json: bool = False
    presence_grace_s: float = 5.0
    quiet_s: float = 5.0
    jwks_allowed: tuple[Network, ...] = ()
    jwks_ca_pem: str = ""
    body_cap_bytes: int = 8 * 1024 * 1024
    request_timeout_s: float = 30.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names for the server's certificate: advertised ones, where it listens, loopback."""
        hosts = [*self.advertise, self.api.host, self.node.host, "localhost", "127.0.0.1", "::1"]
        wildcard = {"0.0.0.0", "::"}  # noqa: S104 - told apart here, not bound
        return tuple(dict.fromkeys(h for h in hosts if h not in wildcard))

    @property
    def public_host(self) -> str:
        """The host that goes into join tokens and client files."""
        return self.names[0]
