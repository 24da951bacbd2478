"""Authorities: opened, made once, renewed in time; several servers on one store agree.

Whoever loses the race to make or renew an authority takes the winner's. What cannot be decrypted
is an error and never made anew: nothing is overwritten.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from limen.adapters.store import Put
from limen.core.model.mesh import trust_domain_of
from limen.core.model.names import parse_trust_domain
from limen.errors import Conflict, InvalidInput, NotFound, Unavailable, Untrusted
from limen.services.server.authority_making import (
    check_open,
    is_due,
    make_intermediate,
    make_key,
    make_root,
    new_serial,
    spki_of,
)
from limen.services.server.authority_records import (
    AuthoritySpec,
    AuthorityState,
    authority_key,
    certificate_writes,
    from_record,
    open_root_key,
    seal_root_key,
    to_body,
    trust_domain_key,
    validity_of,
)

if TYPE_CHECKING:
    import random

    from limen.adapters.keys import KeyEncryption
    from limen.adapters.store import AuditEntry, Store
    from limen.core.model.mesh import Mesh, MeshSettings
    from limen.core.pki.builder import SigningKey
    from limen.core.pki.profile import Request

_LOG = logging.getLogger("limen.authority")
MIN_CA_LIFETIME_S = 3600
RSA_BITS = range(2048, 8193)
SYSTEM = "system:authority"
"""The actor of what the authority does by itself."""


class AuthorityKeeper:
    """Holds the open authorities of one process, control included (mesh `CONTROL`)."""

    def __init__(self, store: Store, kek: KeyEncryption, rng: random.Random) -> None:
        self._store = store
        self._kek = kek
        self._rng = rng
        self._open: dict[str, AuthorityState] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def opened(self, mesh: str) -> AuthorityState:
        """An authority that is open already. KeyError if not: a fault of the caller."""
        return self._open[mesh]

    def _lock(self, mesh: str) -> asyncio.Lock:
        return self._locks.setdefault(mesh, asyncio.Lock())

    async def load(self, mesh: str) -> AuthorityState | None:
        """The open authority, or the stored one; None if there is none."""
        if mesh not in self._open:
            record = await self._store.get(authority_key(mesh))
            if record is None:
                return None
            self._open[mesh] = await from_record(self._kek, record)
        return self._open[mesh]

    async def existing(self, mesh: str) -> AuthorityState:
        """The authority. Raises NotFound (`no-authority`)."""
        state = await self.load(mesh)
        if state is None:
            raise NotFound(
                f"mesh {mesh} has no authority", code="no-authority", hint="apply the Mesh first"
            )
        return state

    async def ensure(self, spec: AuthoritySpec, now_s: int) -> AuthorityState:
        """The authority, made from `spec` if there is none. Raises Conflict, Unavailable."""
        if spec.mesh in self._open:
            return self._open[spec.mesh]
        async with self._lock(spec.mesh):
            return await self.load(spec.mesh) or await self._make(spec, now_s)

    async def _make(self, spec: AuthoritySpec, now_s: int) -> AuthorityState:
        """Make and store; if another server was first, its authority counts."""
        root_key = await asyncio.to_thread(make_key, spec.rsa_bits)
        root, request = make_root(spec, root_key, now_s, new_serial(self._rng))
        record = _record(request, root, spec.mesh, now_s)
        state, below = await self._below(spec, (root, root_key), (now_s, 0))
        body = await to_body(self._kek, state, await seal_root_key(self._kek, spec.mesh, root_key))
        writes = [
            Put(authority_key(spec.mesh), body, expected=0),
            Put(trust_domain_key(spec.trust_domain), {"mesh": spec.mesh}, expected=0),
            record[0],
            below[0],
        ]
        try:
            await self._store.commit(writes, [record[1], below[1]])
        except Conflict:
            winner = await self.load(spec.mesh)
            if winner is None:
                raise trust_domain_taken(spec.trust_domain) from None
            return winner
        return await self.existing(spec.mesh)

    async def current(self, mesh: str, now_s: int, need_s: int) -> AuthorityState:
        """The authority that may sign at `now_s` for `need_s`; a due intermediate is renewed."""
        state = await self.existing(mesh)
        if is_due(state.root, state.intermediate, now_s, need_s):
            async with self._lock(mesh):
                state = await self.existing(mesh)
                if is_due(state.root, state.intermediate, now_s, need_s):
                    state = await self._renewed(state, now_s, need_s)
        check_open(mesh, *validity_of(state.intermediate), now_s)
        return state

    async def _renewed(self, state: AuthorityState, now_s: int, need_s: int) -> AuthorityState:
        """A new intermediate; the old one while it is valid and a new one cannot be had."""
        mesh = state.spec.mesh
        try:
            return await self._renew(mesh, now_s, need_s)
        except (Unavailable, Untrusted) as error:
            start, end = validity_of(state.intermediate)
            if not start <= now_s < end:
                raise
            self._open[mesh] = state
            _LOG.warning("the intermediate of mesh %r is not renewed: %s", mesh, error)
            return state

    async def _renew(self, mesh: str, now_s: int, need_s: int) -> AuthorityState:
        record = await self._store.get(authority_key(mesh))
        if record is None:
            raise NotFound(f"the authority of mesh {mesh} is gone", code="no-authority")
        stored = await from_record(self._kek, record)
        self._open[mesh] = stored
        if not is_due(stored.root, stored.intermediate, now_s, need_s):
            return stored  # another server has renewed it
        root_key = await open_root_key(self._kek, record)
        state, below = await self._below(stored.spec, (stored.root, root_key), (now_s, need_s))
        del root_key
        body = await to_body(self._kek, state, record.body["root_key"])
        try:
            await self._store.commit([Put(record.key, body, record.revision), below[0]], [below[1]])
        except Conflict:
            del self._open[mesh]
            return await self.existing(mesh)
        self._open[mesh] = state
        return state

    async def _below(
        self, spec: AuthoritySpec, root: tuple[bytes, SigningKey], times_s: tuple[int, int]
    ) -> tuple[AuthorityState, tuple[Put, AuditEntry]]:
        key = await asyncio.to_thread(make_key, spec.rsa_bits)
        certificate, request = make_intermediate(
            spec, root, spki_of(key), times_s, new_serial(self._rng)
        )
        state = AuthorityState(spec, root[0], certificate, key)
        return state, _record(request, certificate, spec.mesh, times_s[0])


def spec_of(mesh: Mesh, settings: MeshSettings | None) -> AuthoritySpec:
    """What the mesh's documents ask for. Raises InvalidInput."""
    trust_domain = parse_trust_domain(trust_domain_of(mesh.name, settings))
    if mesh.authority.ca_lifetime_s < MIN_CA_LIFETIME_S:
        raise InvalidInput(
            f"an authority that lives {mesh.authority.ca_lifetime_s} s",
            code="lifetime-too-short",
            hint=f"{MIN_CA_LIFETIME_S} s at least; leave caCert.expiration out for ten years",
        )
    if mesh.authority.ca_rsa_bits is not None and mesh.authority.ca_rsa_bits not in RSA_BITS:
        raise InvalidInput(
            f"RSA keys of {mesh.authority.ca_rsa_bits} bits",
            code="invalid-rsa-bits",
            hint="2048 to 8192 (3072 is enough); leave RSAbits out for ECDSA P-256",
        )
    return AuthoritySpec(
        mesh.name, trust_domain, mesh.authority.ca_rsa_bits, mesh.authority.ca_lifetime_s
    )


def check_unchanged(made: AuthoritySpec, wanted: AuthoritySpec) -> None:
    """Raise Conflict (`trust-domain-fixed`, `authority-fixed`) if `wanted` is not what exists."""
    if made.trust_domain != wanted.trust_domain:
        raise Conflict(
            f"mesh {made.mesh} has issued certificates for trust domain {made.trust_domain}, "
            f"which cannot become {wanted.trust_domain}",
            code="trust-domain-fixed",
            hint="make a new mesh with the new trust domain and move the workloads",
        )
    if made != wanted:
        raise Conflict(
            f"the authority of mesh {made.mesh} exists with other keys or another lifetime "
            f"(RSA bits {made.rsa_bits}, {made.lifetime_s} s)",
            code="authority-fixed",
            hint="set caCert as it was, or make a new mesh",
        )


def trust_domain_taken(trust_domain: str) -> Conflict:
    """The error for a trust domain that another mesh owns."""
    return Conflict(
        f"trust domain {trust_domain} belongs to another mesh",
        code="trust-domain-taken",
        hint="a trust domain belongs to one mesh and stays there: choose another",
    )


def _record(request: Request, certificate: bytes, mesh: str, now_s: int) -> tuple[Put, AuditEntry]:
    return certificate_writes(
        request,
        certificate,
        mesh=mesh,
        namespace="",
        about={},
        actor=SYSTEM,
        time_s=now_s,
    )
