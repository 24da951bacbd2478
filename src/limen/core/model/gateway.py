"""Listeners at the edge, of Istio's Gateway and of the Gateway API's in one shape, and their hosts.

Values only: which workload serves a gateway, which routes attach and which certificate a name means
is resolved by the compiler over all documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ANY = "*"
"""Every namespace (of a `HostGrant`), or every host."""


class Family(Enum):
    """Whose kinds a document is of; the two families never attach to each other."""

    ISTIO = "networking.istio.io"
    GATEWAY_API = "gateway.networking.k8s.io"


class ListenerProtocol(Enum):
    """`HTTP`: plaintext, HTTP/1.1 and HTTP/2. `HTTPS`: ended here. `TLS`: never ended, by SNI."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    TLS = "TLS"


class ServerTlsMode(Enum):
    """Who proves what to whom at a listener.

    `SIMPLE`: the gateway by a certificate from a secret. `MUTUAL`: the client too.
    `OPTIONAL_MUTUAL`: the client if it sends a certificate, which must then be valid.
    `ISTIO_MUTUAL`: both by identities of the mesh. `PASSTHROUGH`: not ended here.
    """

    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"
    PASSTHROUGH = "PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class TlsVersion(Enum):
    """Nothing older is served; ordered by its value."""

    V1_2 = "TLSV1_2"
    V1_3 = "TLSV1_3"


@dataclass(frozen=True, slots=True, order=True)
class SecretRef:
    """A `v1` Secret. An empty namespace is that of the workload that serves the gateway (Istio)."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class HostGrant:
    """Routes of `namespace` (`*`: any) may serve `host` (lower case; exact, `*.suffix`, `*`)."""

    namespace: str
    host: str


@dataclass(frozen=True, slots=True)
class ClientCheck:
    """How a client's certificate is judged, beyond its chain to `authorities`.

    `authorities`: CA bundles, all of them count; empty: the CA in the listener's own secret, or in
    the secret with its name and `-cacert` (Istio). `names`: subject alternative names, any of them.
    `spki_sha256` (base64) and `certificate_sha256` (64 hexadecimal digits): any of both lists.
    """

    authorities: tuple[SecretRef, ...] = ()
    names: tuple[str, ...] = ()
    spki_sha256: tuple[str, ...] = ()
    certificate_sha256: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS of a listener.

    `certificates`: empty for PASSTHROUGH and ISTIO_MUTUAL, else one for each kind of key.
    `client` is there for MUTUAL and OPTIONAL_MUTUAL only. `ciphers` (of TLS 1.2, OpenSSL's names):
    empty is the proxy's default.
    """

    mode: ServerTlsMode
    certificates: tuple[SecretRef, ...] = ()
    client: ClientCheck | None = None
    minimum: TlsVersion = TlsVersion.V1_2
    maximum: TlsVersion = TlsVersion.V1_3
    ciphers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listener:
    """One port with its hosts. `name` is unique in its gateway.

    `grants`: who may serve which host; never empty. `kinds`: kinds of routes (`GROUP/Kind`) that
    may attach. `https_redirect`: every request is answered 301 to https. `bind`: address, "" any.
    """

    name: str
    port: int
    protocol: ListenerProtocol
    grants: tuple[HostGrant, ...]
    kinds: tuple[str, ...]
    tls: ServerTls | None = None
    https_redirect: bool = False
    bind: str = ""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host once, in the order written."""
        return tuple(dict.fromkeys(grant.host for grant in self.grants))


@dataclass(frozen=True, slots=True)
class Gateway:
    """The listeners of a gateway workload.

    Istio: of every workload with the labels `selector` (sorted, never empty). Gateway API:
    `selector` is empty; of the workload `workload`, `NAMESPACE/NAME`, on `addresses` (all if
    empty). `created` sorts; "" unknown.
    """

    family: Family
    listeners: tuple[Listener, ...]
    selector: tuple[tuple[str, str], ...] = ()
    workload: str = ""
    addresses: tuple[str, ...] = ()
    created: str = ""


@dataclass(frozen=True, slots=True)
class GrantSource:
    """A kind (`GROUP/Kind`) of resources in a namespace that may refer to something."""

    kind: str
    namespace: str


@dataclass(frozen=True, slots=True)
class GrantTarget:
    """A kind in the grant's own namespace that may be referred to; `name` "": all of them."""

    kind: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class ReferenceGrant:
    """Any of `sources` may refer to any of `targets`."""

    sources: tuple[GrantSource, ...]
    targets: tuple[GrantTarget, ...]

    def permits(self, source: GrantSource, kind: str, name: str) -> bool:
        """Whether `source` may refer to the resource `name` of `kind` in the grant's namespace."""
        return source in self.sources and any(
            target.kind == kind and target.name in ("", name) for target in self.targets
        )


def host_covers(wide: str, narrow: str) -> bool:
    """Whether every host that `narrow` (exact, `*.suffix` or `*`) means is meant by `wide` too.

    `*.example.com` means any number of labels before `.example.com`, and not `example.com`.
    """
    if wide == ANY:
        return True
    if wide.startswith("*"):
        return narrow != ANY and narrow.removeprefix("*").endswith(wide[1:])
    return wide == narrow


def host_intersection(one: str, other: str) -> str | None:
    """The hosts that both patterns mean, None if there are none."""
    if host_covers(one, other):
        return other
    return one if host_covers(other, one) else None


def host_rank(pattern: str) -> tuple[bool, int]:
    """Of several patterns that mean a host the greatest decides: exact, then the longest."""
    return (not pattern.startswith("*"), len(pattern))
