"""What a token service goes by: one immutable value, made anew when the server says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.compiler.exchange_grants import Rights, rights_of
from limen.core.compiler.token_clients import Identity
from limen.core.dialects import document_from_stored, to_resource
from limen.core.model.names import parse_spiffe_id
from limen.core.model.resource import (
    JWKS_CACHE,
    MESH,
    MESH_SETTINGS,
    REVOCATION,
    TOKEN_EXCHANGE_POLICY,
    TRUSTED_ISSUER,
    ResourceKey,
)
from limen.core.pki.pem import parse_certificates
from limen.core.tokens.algorithms import DEFAULT
from limen.core.tokens.jwks import KeySet, parse_jwks
from limen.core.tokens.verify import IssuerRules
from limen.errors import InvalidInput, LimenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.model.resource import Resource
    from limen.core.model.token_service import KeyMaterial, TrustedIssuer

DOCUMENTS = (MESH, MESH_SETTINGS, TRUSTED_ISSUER, TOKEN_EXCHANGE_POLICY)
WATCHED = (*DOCUMENTS, REVOCATION, JWKS_CACHE)
KEEP_S = 86400.0
"""How long a fetched key set is good after the server has last seen it at its publisher."""

Records = dict[ResourceKey, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is known of the mesh.

    `roots` DER: whom its authority vouches for. `by_issuer`: TrustedIssuers' names by `iss`. `jwt`:
    what verifies tokens of a TrustedIssuer, by name. `revoked`: (by, value).
    """

    trust_domain: str = ""
    roots: tuple[bytes, ...] = ()
    rights: Rights = field(default_factory=Rights)
    by_issuer: Mapping[str, str] = field(default_factory=dict)
    jwt: Mapping[str, IssuerRules] = field(default_factory=dict)
    client_keys: Mapping[str, KeySet] = field(default_factory=dict)
    revoked: frozenset[tuple[str, str]] = frozenset()
    problems: tuple[str, ...] = ()

    def is_revoked(self, claims: Mapping[str, Any]) -> bool:
        """Whether a token of this service with these claims is refused."""
        return any((by, claims.get(by)) in self.revoked for by in ("jti", "sub", "txn"))

    def issuer(self, name: str) -> TrustedIssuer:
        """The TrustedIssuer of that name. KeyError if there is none."""
        return self.rights.issuers[name]


def make_rules(records: Records, facts: Mapping[str, Any], own_issuer: str, now_s: float) -> Rules:
    """From the watch's records and the mesh's facts.

    A record that is not understood grants nothing and is named in `problems`.
    """
    resources, problems = _resources(records)
    identities = [
        Identity(parse_spiffe_id(str(one["spiffe_id"])), tuple(sorted(one["tags"].items())))
        for one in facts["identities"]
    ]
    rights = rights_of(str(facts["mesh"]), resources, identities, own_issuer)
    sets = _key_sets(records, now_s)
    return Rules(
        trust_domain=str(facts["trust_domain"]),
        roots=parse_certificates(str(facts["bundle_pem"])) if facts["bundle_pem"] else (),
        rights=rights,
        by_issuer={one.issuer: name for name, one in rights.issuers.items()},
        jwt={
            name: _rules_for(one, _keys_of(one.jwt.keys, one.issuer, sets))
            for name, one in rights.issuers.items()
            if one.jwt is not None
        },
        client_keys={name: _keys_of(keys, "", sets) for name, keys in rights.keys.items()},
        revoked=frozenset(
            (str(body["by"]), str(body["value"]))
            for key, body in records.items()
            if key.kind == REVOCATION
            and body["issuer"] in {"", own_issuer}
            and float(body["until_s"]) > now_s
        ),
        problems=tuple(problems),
    )


def _resources(records: Records) -> tuple[list[Resource], list[str]]:
    found: list[Resource] = []
    problems: list[str] = []
    for key, body in records.items():
        stored = body.get("document")
        if key.kind not in DOCUMENTS or not isinstance(stored, dict):
            continue
        try:
            resource, _ = to_resource(document_from_stored(stored))
        except LimenError:
            resource = None
        if resource is None:
            problems.append(f"{key} is not understood by this version")
        else:
            found.append(resource)
    return found, problems


def _key_sets(records: Records, now_s: float) -> dict[tuple[str, str], KeySet]:
    """What the server has fetched, by issuer (discovery) or address."""
    found: dict[tuple[str, str], KeySet] = {}
    for key, body in records.items():
        if key.kind != JWKS_CACHE or float(body["confirmed_at_s"]) + KEEP_S < now_s:
            continue
        found[str(body["issuer"]), str(body["uri"])] = _parsed(str(body["jwks"]))
    return found


def _keys_of(keys: KeyMaterial, issuer: str, sets: Mapping[tuple[str, str], KeySet]) -> KeySet:
    if keys.jwks:
        return _parsed(keys.jwks)
    return sets.get(("", keys.jwks_uri) if keys.jwks_uri else (issuer, ""), KeySet())


def _parsed(text: str) -> KeySet:
    try:
        return parse_jwks(text)
    except InvalidInput:
        return KeySet()


def _rules_for(issuer: TrustedIssuer, keys: KeySet) -> IssuerRules:
    jwt = issuer.jwt
    algorithms: Iterable[str] = jwt.keys.algorithms if jwt is not None else ()
    return IssuerRules(
        issuer=issuer.issuer,
        keys=keys,
        algorithms=frozenset(algorithms) or DEFAULT,
        audiences=issuer.audiences,
        wildcard_audiences=True,
        typ=jwt.typ if jwt is not None else "",
    )
