"""Which certificate a listener serves with, and whom its clients' certificates must come from.

Sources: istio/istio `pilot/pkg/credentials/kube/secrets.go`; Gateway API `GatewayTLSConfig`. A
secret is looked for in one namespace only, or one tenant's key would serve another
(CVE-2021-34824). A listener without its certificate does not open, and never asks for less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.model.gateway import Family, GrantSource, SecretRef, ServerTlsMode, host_covers
from limen.core.model.resource import GATEWAY, SECRET
from limen.core.model.secret import Secret
from limen.core.plan.edge import AuthoritiesPlan, CertificatePlan, ClientCheckPlan, EdgeTls

if TYPE_CHECKING:
    from limen.core.compiler.edge.documents import EdgeDocuments, Report
    from limen.core.compiler.edge.listeners import Bound
    from limen.core.model.gateway import ServerTls
    from limen.core.model.secret import KeyPair
    from limen.core.plan.edge import SecretPlan

_CA_SUFFIX = "-cacert"


class Secrets:
    """The secrets that the listeners of one gateway workload in `namespace` need."""

    def __init__(self, documents: EdgeDocuments, namespace: str, report: Report) -> None:
        self._documents = documents
        self._namespace = namespace
        self._report = report
        self._needed: dict[tuple[bool, SecretRef], SecretPlan] = {}

    def plans(self) -> tuple[SecretPlan, ...]:
        """Every secret once, in a fixed order."""
        return tuple(self._needed[key] for key in sorted(self._needed))

    def tls(self, bound: Bound, tls: ServerTls) -> EdgeTls | None:
        """TLS of a listener that ends it; None if it cannot be had."""
        if tls.mode is ServerTlsMode.ISTIO_MUTUAL:
            return EdgeTls(tls.mode, (), None, tls.minimum, tls.maximum, tls.ciphers)
        certificates = self._certificates(bound, tls)
        if certificates is None:
            return None
        client: ClientCheckPlan | None = None
        if tls.mode in (ServerTlsMode.MUTUAL, ServerTlsMode.OPTIONAL_MUTUAL):
            client = self._client(bound, tls)
            if client is None:
                return None
        return EdgeTls(tls.mode, certificates, client, tls.minimum, tls.maximum, tls.ciphers)

    def _certificates(self, bound: Bound, tls: ServerTls) -> tuple[SecretRef, ...] | None:
        found: list[tuple[SecretRef, KeyPair]] = []
        assumed: list[SecretRef] = []
        for ref in tls.certificates:
            full = self._resolved(bound, ref)
            if full is None:
                return None
            secret = self._secret(bound, full)
            if secret is None:
                if not self._documents.assumes_secrets():
                    return None
                assumed.append(full)
                continue
            if secret.pair is None:
                self._wrong(bound, full, "a certificate with its key (tls.crt, tls.key)")
                return None
            found.append((full, secret.pair))
        kinds = [(pair.key_kind, frozenset(pair.names)) for _, pair in found]
        if len(set(kinds)) < len(kinds):
            self._report.error(
                bound.resource,
                "duplicate-certificate",
                f"two certificates of listener {bound.listener.name} have the same names and kind "
                "of key: which one would be served could not be said",
                f"{bound.path}/tls",
                "give one with an RSA key and one with an EC key, or only one",
            )
            return None
        for ref, pair in found:
            self._needed[False, ref] = CertificatePlan(ref, pair.chain_pem, pair.key)
        if found:
            self._names(bound, [pair for _, pair in found])
        return (*(ref for ref, _ in found), *assumed)

    def _names(self, bound: Bound, pairs: list[KeyPair]) -> None:
        names = [name.lower() for pair in pairs for name in pair.names]
        for host in bound.listener.hosts:
            if not any(host_covers(name, host) or host_covers(host, name) for name in names):
                self._report.warn(
                    bound.resource,
                    "certificate-name",
                    f"the certificate of listener {bound.listener.name} is for "
                    f"{', '.join(names[:5]) or 'no name'}, and not for {host}",
                    f"{bound.path}/hosts" if bound.gateway.family is Family.ISTIO else bound.path,
                    "browsers will refuse it: name a secret with a certificate for this host",
                )

    def _client(self, bound: Bound, tls: ServerTls) -> ClientCheckPlan | None:
        check = tls.client
        ref = self._authorities(bound, tls)
        if ref is None or check is None:
            return None
        return ClientCheckPlan(
            ref,
            tls.mode is ServerTlsMode.MUTUAL,
            check.names,
            check.spki_sha256,
            check.certificate_sha256,
        )

    def _authorities(self, bound: Bound, tls: ServerTls) -> SecretRef | None:
        """One bundle of all authorities that count."""
        given = tls.client.authorities if tls.client is not None else ()
        bundles: dict[SecretRef, bytes] = {}
        for ref in given:
            full = self._resolved(bound, ref)
            secret = None if full is None else self._secret(bound, full)
            if full is not None and secret is None and self._documents.assumes_secrets():
                return full
            if full is None or secret is None:
                return None
            if secret.authorities is None:
                self._wrong(bound, full, "the certificates of authorities (ca.crt)")
                return None
            bundles[full] = secret.authorities.bundle_pem
        if not given:
            bundles = self._beside(tls)
            if self._documents.assumes_secrets() and tls.certificates:
                own = tls.certificates[0]
                return SecretRef(own.namespace or self._namespace, own.name)
        if not bundles or (not given and len(set(bundles.values())) > 1):
            several = (
                "several certificates come with different ones" if bundles else "none is known"
            )
            self._report.error(
                bound.resource,
                "missing-authorities",
                f"listener {bound.listener.name} asks clients for certificates, and whose is not "
                f"clear: {several}",
                f"{bound.path}/tls",
                "add ca.crt to the secret, or a secret of its name and -cacert; until then the "
                "listener does not open",
            )
            return None
        first = min(bundles)
        joined = b"\n".join(bundles[ref] for ref in sorted(bundles)) if given else bundles[first]
        name = (
            first
            if len(bundles) == 1
            else SecretRef(first.namespace, "+".join(sorted(ref.name for ref in bundles)))
        )
        self._needed[True, name] = AuthoritiesPlan(name, joined)
        return name

    def _beside(self, tls: ServerTls) -> dict[SecretRef, bytes]:
        """Authorities that go with the listener's own certificates (Istio)."""
        found: dict[SecretRef, bytes] = {}
        for ref in tls.certificates:
            full = SecretRef(ref.namespace or self._namespace, ref.name)
            for name in (f"{full.name}{_CA_SUFFIX}", full.name):
                resource = self._documents.secret(full.namespace, name)
                secret = resource.spec if resource is not None else None
                if isinstance(secret, Secret) and secret.authorities is not None:
                    found[SecretRef(full.namespace, name)] = secret.authorities.bundle_pem
                    break
        return found

    def _resolved(self, bound: Bound, ref: SecretRef) -> SecretRef | None:
        """The secret that is meant, if the gateway may name it."""
        full = SecretRef(ref.namespace or self._namespace, ref.name)
        if bound.gateway.family is Family.ISTIO:
            return full
        home = bound.resource.key.namespace
        if self._documents.permits(GrantSource(GATEWAY, home), full.namespace, SECRET, full.name):
            return full
        self._report.error(
            bound.resource,
            "missing-grant",
            f"listener {bound.listener.name} names the secret {full.name} of another namespace, "
            f"{full.namespace}, which does not permit it",
            f"{bound.path}/tls",
            f"write a ReferenceGrant in {full.namespace}: from Gateway of {home} to Secret "
            f"{full.name}",
        )
        return None

    def _secret(self, bound: Bound, ref: SecretRef) -> Secret | None:
        resource = self._documents.secret(ref.namespace, ref.name)
        if resource is not None and isinstance(resource.spec, Secret):
            return resource.spec
        say = self._report.error if self._documents.has_secrets() else self._report.warn
        say(
            bound.resource,
            "missing-secret",
            f"there is no Secret {ref.namespace}/{ref.name}: listener {bound.listener.name} "
            "(port "
            f"{bound.listener.port}) does not open",
            f"{bound.path}/tls",
            f"apply a Secret {ref.name} in the namespace {ref.namespace}",
        )
        return None

    def _wrong(self, bound: Bound, ref: SecretRef, wanted: str) -> None:
        self._report.error(
            bound.resource,
            "wrong-secret",
            f"the Secret {ref.namespace}/{ref.name} does not hold {wanted}, which listener "
            f"{bound.listener.name} needs",
            f"{bound.path}/tls",
            "name another secret, or add what is missing",
        )
