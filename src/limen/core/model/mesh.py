"""A mesh: its trust domain, how its certificates live, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.provider import ExtensionProvider

DEFAULT_LIFETIME_S = 24 * 3600
DEFAULT_CA_LIFETIME_S = 10 * 365 * 24 * 3600
DEFAULT_ROOT_NAMESPACE = "istio-system"


@dataclass(frozen=True, slots=True)
class BuiltinAuthority:
    """Kuma's `mtls.backends[type=builtin]`, as far as it says something about our authority.

    `ca_rsa_bits` None means ECDSA P-256 for root and intermediate; leaves are always P-256.
    """

    name: str = "builtin"
    leaf_lifetime_s: int = DEFAULT_LIFETIME_S
    ca_rsa_bits: int | None = None
    ca_lifetime_s: int = DEFAULT_CA_LIFETIME_S
    request_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Mesh:
    """`kuma.io/v1alpha1` Mesh. `mtls` off happens only when the document says so explicitly."""

    name: str
    mtls_enabled: bool = True
    authority: BuiltinAuthority = BuiltinAuthority()


class WhenStale(Enum):
    """What a cut-off agent does beyond `max_staleness_s`."""

    KEEP = "Keep"
    REFUSE = "Refuse"


class Isolation(Enum):
    """How well a workload is separated from other processes of its host, weakest first."""

    NONE = "None"
    UID = "Uid"
    NETWORK_NAMESPACE = "NetworkNamespace"


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """`limen.dev/v1` MeshSettings, named as the mesh it belongs to.

    `trust_domain` None means `<mesh>.mesh.local`; it never changes once certificates exist.
    `default_allow` restores Istio's "no policy: allowed" (design, "Several documents").
    `log_all`: every request is logged, not only refused ones.
    `rule_header`: a response header that names the rule that decided; "": none. `providers`: whom
    CUSTOM policies may ask, sorted by name. Gateways believe
    `trusted_hops` proxies in front of them what `x-forwarded-for` says (0: nobody), and with
    `proxy_protocol` every connection to them begins with a PROXY header. `scope_gateways`: a
    gateway workload serves Gateways of its own and of the root namespace only.
    """

    trust_domain: str | None = None
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    default_allow: bool = False
    max_staleness_s: int | None = None
    when_stale: WhenStale = WhenStale.KEEP
    min_outage_budget_s: int | None = None
    min_isolation: Isolation = Isolation.NONE
    max_connection_age_s: int | None = None
    rule_header: str = ""
    log_all: bool = False
    providers: tuple[ExtensionProvider, ...] = ()
    trusted_hops: int = 0
    proxy_protocol: bool = False
    scope_gateways: bool = False


def trust_domain_of(mesh: str, settings: MeshSettings | None) -> str:
    """The mesh's trust domain: as set, else `<mesh>.mesh.local`."""
    if settings is not None and settings.trust_domain is not None:
        return settings.trust_domain
    return f"{mesh}.mesh.local"
