"""What a mesh's own documents say about every workload in it: mTLS, trust domain, defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.model.mesh import DEFAULT_ROOT_NAMESPACE, Mesh, MeshSettings, trust_domain_of

if TYPE_CHECKING:
    from limen.core.model.names import SpiffeId
    from limen.core.model.provider import ExtensionProvider

CLUSTER_LOCAL = "cluster.local"
"""Stands for the mesh's own trust domain in documents and questions, as in Istio."""

SYSTEM_NAMESPACES = frozenset({"", "kuma-system", "kong-mesh-system"})
"""Namespaces whose policies concern the whole mesh, as in Kuma; the root namespace does too."""

_SCHEME = "spiffe://"


@dataclass(frozen=True, slots=True)
class Environment:
    """The part of `Mesh` and `MeshSettings` that a proxy's plan depends on.

    `aliases` are other names of `trust_domain` in documents; nobody holds a certificate in them.
    """

    mesh: str
    mtls: bool
    trust_domain: str
    aliases: frozenset[str]
    root_namespace: str
    default_allow: bool
    max_connection_age_s: int | None
    rule_header: str = ""
    log_all: bool = False
    providers: tuple[ExtensionProvider, ...] = ()
    trusted_hops: int = 0
    proxy_protocol: bool = False
    scope_gateways: bool = False
    max_staleness_s: int | None = None

    def is_own(self, trust_domain: str) -> bool:
        """Whether a trust domain written in a document means this mesh's."""
        return trust_domain in (self.trust_domain, CLUSTER_LOCAL) or trust_domain in self.aliases

    def provider(self, name: str) -> ExtensionProvider | None:
        """The provider that a CUSTOM policy names, if MeshSettings has it."""
        return next((p for p in self.providers if p.name == name), None)

    def canonical(self, spiffe_id: str) -> str:
        """A SPIFFE ID (or a prefix of one) with an alias replaced by the mesh's trust domain."""
        if not spiffe_id.startswith(_SCHEME):
            return spiffe_id
        domain, slash, path = spiffe_id.removeprefix(_SCHEME).partition("/")
        own = self.trust_domain if self.is_own(domain) else domain
        return f"{_SCHEME}{own}{slash}{path}"

    def trusts(self, identity: SpiffeId) -> bool:
        """Whether the mesh's authority vouches for `identity`."""
        return identity.trust_domain == self.trust_domain

    def covers(self, namespace: str, workload_namespace: str) -> bool:
        """Whether a policy of `namespace` concerns workloads of `workload_namespace`."""
        return (
            namespace == workload_namespace
            or namespace in SYSTEM_NAMESPACES
            or namespace == self.root_namespace
        )


def environment_of(name: str, mesh: Mesh | None, settings: MeshSettings | None) -> Environment:
    """The environment of mesh `name`: strict defaults where no document says otherwise."""
    mesh = mesh or Mesh(name)
    return Environment(
        mesh=name,
        mtls=mesh.mtls_enabled,
        trust_domain=trust_domain_of(name, settings),
        aliases=frozenset(settings.trust_domain_aliases) if settings else frozenset(),
        root_namespace=settings.root_namespace if settings else DEFAULT_ROOT_NAMESPACE,
        default_allow=settings.default_allow if settings else False,
        max_connection_age_s=settings.max_connection_age_s if settings else None,
        rule_header=settings.rule_header if settings else "",
        log_all=settings.log_all if settings else False,
        providers=settings.providers if settings else (),
        trusted_hops=settings.trusted_hops if settings else 0,
        proxy_protocol=settings.proxy_protocol if settings else False,
        scope_gateways=settings.scope_gateways if settings else False,
        max_staleness_s=settings.max_staleness_s if settings else None,
    )
