"""The authority: who gets which certificate, recorded before it is handed out.

One control authority (server, nodes) and one per mesh (workloads). Each has a root, whose key is
opened only to sign an intermediate and dropped at once, and an intermediate, replaced at half its
life. Every certificate passes the judge, and is in the store with its audit event before anybody
sees it. Names are decided here from what the caller of these functions has authorised; a request
(CSR) only proves possession of a key.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from limen.adapters.store import AuditEntry, Delete, Put
from limen.core.pki.csr import parse_csr, verify_names
from limen.core.pki.join_token import fingerprint_of
from limen.core.pki.pem import certificates_to_pem
from limen.core.pki.profile import BACKDATE_S, Profile, Request, is_ip_text, node_uri
from limen.errors import Forbidden, InvalidInput
from limen.services.server.authority_keeper import (
    SYSTEM,
    AuthorityKeeper,
    check_unchanged,
    spec_of,
    trust_domain_taken,
)
from limen.services.server.authority_making import (
    CA_LIFETIME_S,
    certify,
    new_serial,
    spki_of,
)
from limen.services.server.authority_records import (
    CERTIFICATE,
    CONTROL,
    AuthorityState,
    certificate_writes,
    control_spec,
    trust_domain_key,
    validity_of,
)
from limen.services.server.group_commit import GroupCommit
from limen.services.server.secret_bodies import SecretBodies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.adapters.clock import Clock
    from limen.adapters.keys import KeyEncryption
    from limen.adapters.store import Check, JsonValue, Store
    from limen.core.model.mesh import Mesh, MeshSettings
    from limen.core.model.names import InstanceName, SpiffeId

NODE_LIFETIME_S = 7 * 86400
SERVER_LIFETIME_S = 30 * 86400
MIN_LIFETIME_S = 10
MAX_LIFETIME_S = 365 * 86400


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was recorded. `chain_pem`: leaf first, then the intermediate.

    `bundle_pem` holds the roots to trust. `renew_at_s` is at 40 to 50 % of its life.
    """

    chain_pem: str
    bundle_pem: str
    serial: str
    issuer_key_id: str
    not_after_s: int
    renew_at_s: float


@dataclass(frozen=True, slots=True)
class IssuedServer:
    """The server's own identity. `chain_pem` ends with the root: agents pin it."""

    key_pem: str = field(repr=False)
    chain_pem: str
    bundle_pem: str
    not_after_s: int
    renew_at_s: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A signed certificate that nobody may see before `writes` and `audit` are committed."""

    issued: Issued
    writes: tuple[Put, ...]
    audit: tuple[AuditEntry, ...]


class Authority:
    """See the module. Call `start` once before anything else. Safe from many tasks of one loop."""

    def __init__(
        self,
        store: Store,
        kek: KeyEncryption,
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._kek = kek
        self._clock = clock
        self._rng = rng or random.SystemRandom()
        self.secrets = SecretBodies(kek)
        self._keeper = AuthorityKeeper(store, kek, self._rng)
        self.commits = GroupCommit(store)

    async def start(self) -> None:
        """Open the control authority, or make it at the very first start.

        Raises Untrusted (`wrong-kek`) if the store was written under another key.
        """
        await self._keeper.ensure(control_spec(CA_LIFETIME_S), int(self._clock.now_s()))

    @property
    def control_bundle_pem(self) -> str:
        """The control root, PEM."""
        return certificates_to_pem([self._keeper.opened(CONTROL).root])

    @property
    def control_fingerprint(self) -> str:
        """SHA-256 of the control root's DER, hex: what a join token carries."""
        return fingerprint_of(self._keeper.opened(CONTROL).root)

    async def check_mesh(
        self,
        mesh: Mesh,
        settings: MeshSettings | None,
        aliases_of_others: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Raise Conflict if this mesh may not be stored: call it before a Mesh or its settings.

        `trust-domain-fixed`: its authority exists with another trust domain. `trust-domain-taken`:
        trust domain or alias is another mesh's. `authority-fixed`: it was made with other keys or
        another lifetime. `aliases_of_others`: aliases of the other meshes, by mesh.
        """
        spec = spec_of(mesh, settings)
        state = await self._keeper.load(mesh.name)
        if state is not None:
            check_unchanged(state.spec, spec)
        for alias in (spec.trust_domain, *(settings.trust_domain_aliases if settings else ())):
            claim = await self._store.get(trust_domain_key(alias))
            if claim is not None and claim.body.get("mesh") != mesh.name:
                raise trust_domain_taken(alias)
        for other, aliases in (aliases_of_others or {}).items():
            if other != mesh.name and spec.trust_domain in aliases:
                raise trust_domain_taken(spec.trust_domain)

    async def ensure_mesh(self, mesh: Mesh, settings: MeshSettings | None = None) -> None:
        """Make the mesh's authority if there is none; cheap if there is. Errors: `check_mesh`."""
        spec = spec_of(mesh, settings)
        state = await self._keeper.ensure(spec, int(self._clock.now_s()))
        check_unchanged(state.spec, spec)

    async def bundle_pem(self, mesh: str) -> str:
        """The roots that this mesh's workloads trust. Raises NotFound (`no-authority`)."""
        return certificates_to_pem([(await self._keeper.existing(mesh)).root])

    async def trust_domain(self, mesh: str) -> str:
        """The trust domain that the mesh's authority was made for. Raises NotFound."""
        return (await self._keeper.existing(mesh)).spec.trust_domain

    async def issue_workload(  # noqa: PLR0917 - whose, which names, which key, how long, by whom
        self,
        instance: InstanceName,
        spiffe_id: SpiffeId,
        dns_sans: Sequence[str],
        csr_pem: str,
        lifetime_s: int,
        actor: str,
        *,
        node: str = "",
        only_if: Sequence[Check] = (),
    ) -> Issued:
        """An SVID for one instance; the caller has checked that `actor` may run it.

        `only_if` must hold in the transaction that records it: else Conflict, and nothing is given.

        The lifetime is cut at the end of the mesh's root: see `Issued.not_after_s`. Raises
        InvalidInput (the CSR; `invalid-lifetime`), Forbidden (`foreign-trust-domain`), NotFound
        (`no-authority`: call `ensure_mesh`), Unavailable (`clock-backwards`, `authority-expired`).
        """
        _check_lifetime(lifetime_s)
        mesh = instance.workload.mesh
        now_s = int(self._clock.now_s())
        state = await self._keeper.current(mesh, now_s, lifetime_s)
        if spiffe_id.trust_domain != state.spec.trust_domain:
            raise Forbidden(
                f"{spiffe_id} is not of mesh {mesh} (trust domain {state.spec.trust_domain})",
                code="foreign-trust-domain",
            )
        csr = parse_csr(csr_pem)
        verify_names(csr, str(spiffe_id), dns_sans)
        request = Request(
            Profile.WORKLOAD,
            csr.public_key,
            state.intermediate,
            new_serial(self._rng),
            *_span(state, now_s, lifetime_s),
            uri=str(spiffe_id),
            dns_names=tuple(dns_sans),
        )
        about: dict[str, JsonValue] = {"instance": str(instance), "node": node}
        prepared = self._prepare(
            state, request, now_s, actor=actor, namespace=spiffe_id.namespace, about=about
        )
        await self.commits.commit([*only_if, *prepared.writes], prepared.audit)
        return prepared.issued

    async def prepare_node(self, node_id: str, csr_pem: str, mesh: str, actor: str) -> Prepared:
        """A node's certificate, to be committed by the caller together with the node's record."""
        now_s = int(self._clock.now_s())
        state = await self._keeper.current(CONTROL, now_s, NODE_LIFETIME_S)
        csr = parse_csr(csr_pem)
        uri = node_uri(node_id)
        verify_names(csr, uri, ())
        request = Request(
            Profile.NODE,
            csr.public_key,
            state.intermediate,
            new_serial(self._rng),
            *_span(state, now_s, NODE_LIFETIME_S),
            uri=uri,
        )
        about: dict[str, JsonValue] = {"node": node_id, "of_mesh": mesh}
        return self._prepare(state, request, now_s, actor=actor, about=about)

    async def issue_node(self, node_id: str, csr_pem: str, mesh: str, actor: str) -> Issued:
        """A node's certificate, committed. Joining uses `prepare_node` instead."""
        prepared = await self.prepare_node(node_id, csr_pem, mesh, actor)
        await self.commits.commit(prepared.writes, prepared.audit)
        return prepared.issued

    async def issue_server(
        self, dns_names: Sequence[str], ip_addresses: Sequence[str]
    ) -> IssuedServer:
        """A key and certificate for this server's ports. The key is made here and not stored."""
        now_s = int(self._clock.now_s())
        state = await self._keeper.current(CONTROL, now_s, SERVER_LIFETIME_S)
        key = ec.generate_private_key(ec.SECP256R1())
        request = Request(
            Profile.SERVER,
            spki_of(key),
            state.intermediate,
            new_serial(self._rng),
            *_span(state, now_s, SERVER_LIFETIME_S),
            dns_names=tuple(dns_names),
            ip_addresses=tuple(ip_addresses),
        )
        prepared = self._prepare(state, request, now_s, actor=SYSTEM)
        await self.commits.commit(prepared.writes, prepared.audit)
        issued = prepared.issued
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return IssuedServer(
            key_pem.decode("ascii"),
            issued.chain_pem + issued.bundle_pem,
            issued.bundle_pem,
            issued.not_after_s,
            issued.renew_at_s,
        )

    async def issue_role(self, csr_pem: str, names: Sequence[str], actor: str) -> Issued:
        """A server certificate for a role that runs apart, of the control authority.

        The caller has checked that `actor` may answer for `names`.
        """
        now_s = int(self._clock.now_s())
        state = await self._keeper.current(CONTROL, now_s, SERVER_LIFETIME_S)
        csr = parse_csr(csr_pem)
        request = Request(
            Profile.SERVER,
            csr.public_key,
            state.intermediate,
            new_serial(self._rng),
            *_span(state, now_s, SERVER_LIFETIME_S),
            dns_names=tuple(n for n in names if not is_ip_text(n)),
            ip_addresses=tuple(n for n in names if is_ip_text(n)),
        )
        prepared = self._prepare(state, request, now_s, actor=actor)
        await self.commits.commit(prepared.writes, prepared.audit)
        return prepared.issued

    async def prune_certificates(self, keep_s: int = 30 * 86400) -> int:
        """Forget certificates that ended more than `keep_s` ago; how many. The audit log stays."""
        now_s = self._clock.now_s()
        records, _ = await self._store.list(CERTIFICATE)
        old = [r for r in records if _not_after(r.body) + keep_s < now_s]
        for first in range(0, len(old), 256):
            group = old[first : first + 256]
            entry = AuditEntry(
                now_s, SYSTEM, "prune", CERTIFICATE, "", "", "", {"count": len(group)}
            )
            await self._store.commit([Delete(r.key, r.revision) for r in group], [entry])
        return len(old)

    def _prepare(
        self,
        state: AuthorityState,
        request: Request,
        now_s: int,
        *,
        actor: str,
        namespace: str = "",
        about: Mapping[str, JsonValue] | None = None,
    ) -> Prepared:
        certificate = certify(request, state.intermediate_key)
        put, entry = certificate_writes(
            request,
            certificate,
            mesh=state.spec.mesh,
            namespace=namespace,
            about=about or {},
            actor=actor,
            time_s=now_s,
        )
        life_s = request.not_after_s - now_s
        issued = Issued(
            certificates_to_pem([certificate, state.intermediate]),
            certificates_to_pem([state.root]),
            f"{request.serial:x}",
            state.issuer_key_id,
            request.not_after_s,
            now_s + life_s * (0.5 - 0.1 * self._rng.random()),
        )
        return Prepared(issued, (put,), (entry,))


def _check_lifetime(lifetime_s: int) -> None:
    if not MIN_LIFETIME_S <= lifetime_s <= MAX_LIFETIME_S:
        raise InvalidInput(
            f"a certificate that lives {lifetime_s} s",
            code="invalid-lifetime",
            hint=f"{MIN_LIFETIME_S} s to {MAX_LIFETIME_S} s",
        )


def _span(state: AuthorityState, now_s: int, lifetime_s: int) -> tuple[int, int]:
    """Not before, not after: never outside the issuer's own."""
    start, end = validity_of(state.intermediate)
    return max(now_s - BACKDATE_S, start), min(now_s + lifetime_s, end)


def _not_after(body: Mapping[str, JsonValue]) -> float:
    value = body.get("not_after_s")
    return float(value) if isinstance(value, (int, float)) else float("inf")
