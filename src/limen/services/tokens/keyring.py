"""The keys that this service signs with: published before use, kept until the last token ends.

A key is made, published, signs after `lead_s`, is followed by the next one after `life_s`, and
stays published until every token that it may have signed is over. Private keys are sealed at rest
under a key that lies elsewhere (`adapters/keys`), and never leave this process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from limen.adapters.keys import seal, unseal
from limen.adapters.runtime_dir import write_atomic
from limen.core.tokens.jwks import KeySet, parse_jwks
from limen.core.tokens.signing import ALGORITHM, key_id, public_members
from limen.errors import Untrusted

if TYPE_CHECKING:
    from pathlib import Path

    from limen.adapters.clock import Clock
    from limen.adapters.keys import KeyEncryption

FILE = "signing-keys.json"
MAX_TOKEN_LIFE_S = 3600
LEEWAY_S = 300
_NAME, _PURPOSE = "token service", "signing-key"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key; it signs from `signs_from_s` until a later one does."""

    kid: str
    private: ec.EllipticCurvePrivateKey = field(repr=False)
    signs_from_s: float


class Keyring:
    """`signing` and `published` at a time. `load` once, then `turn` from time to time."""

    def __init__(
        self, path: Path, kek: KeyEncryption, clock: Clock, *, life_s: float, lead_s: float
    ) -> None:
        self._path = path / FILE
        self._kek = kek
        self._clock = clock
        self._life_s = life_s
        self._lead_s = lead_s
        self._keys: list[SigningKey] = []
        self._now: SigningKey | None = None
        self._set = KeySet()

    async def load(self) -> None:
        """Take up the keys of an earlier process, or make the first. Raises Untrusted."""
        if self._path.exists():
            self._keys = [await self._open(one) for one in _read(self._path)]
        if not self._keys:
            await self._make(self._clock.now_s())
        self._choose()

    @property
    def signing(self) -> SigningKey:
        """The key that signs now."""
        if self._now is None:
            raise AssertionError("load() comes first")
        return self._now

    @property
    def keys(self) -> KeySet:
        """What verifies this service's own tokens."""
        return self._set

    def published(self) -> str:
        """The JWKS, JSON text."""
        entries = [
            {
                **public_members(one.private.public_key()),
                "alg": ALGORITHM,
                "kid": one.kid,
                "use": "sig",
            }
            for one in self._keys
        ]
        return json.dumps({"keys": entries}, sort_keys=True, separators=(",", ":"))

    async def turn(self) -> bool:
        """Make, use and forget keys as it is time to; whether what is published changed."""
        now_s = self._clock.now_s()
        before = self.published()
        newest = self._keys[-1]
        if now_s >= newest.signs_from_s + self._life_s - self._lead_s:
            await self._make(now_s + self._lead_s)
        self._choose()
        await self._forget(now_s)
        return self.published() != before

    def _choose(self) -> None:
        now_s = self._clock.now_s()
        ready = [one for one in self._keys if one.signs_from_s <= now_s]
        self._now = ready[-1] if ready else self._keys[0]
        self._set = parse_jwks(self.published())

    async def _forget(self, now_s: float) -> None:
        """A key's last token was signed when the next began, and lives an hour at most."""
        over = {
            old.kid
            for old, new in zip(self._keys, self._keys[1:], strict=False)
            if now_s > new.signs_from_s + MAX_TOKEN_LIFE_S + LEEWAY_S
        }
        if over:
            self._keys = [one for one in self._keys if one.kid not in over]
            await self._save()
            self._set = parse_jwks(self.published())

    async def _make(self, signs_from_s: float) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        self._keys.append(SigningKey(key_id(private.public_key()), private, signs_from_s))
        await self._save()

    async def _save(self) -> None:
        stored = []
        for one in self._keys:
            der = one.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            sealed = await seal(self._kek, f"{_NAME} {one.kid}", _PURPOSE, der)
            stored.append({"kid": one.kid, "signs_from_s": one.signs_from_s, "sealed": sealed})
        write_atomic(self._path, json.dumps({"keys": stored}).encode())

    async def _open(self, stored: dict[str, Any]) -> SigningKey:
        kid = str(stored["kid"])
        der = await unseal(self._kek, f"{_NAME} {kid}", _PURPOSE, stored["sealed"])
        private = load_der_private_key(der, None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise Untrusted("a signing key is of another kind", code="sealed-broken")
        return SigningKey(kid, private, float(stored["signs_from_s"]))


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return cast("list[dict[str, Any]]", json.loads(path.read_bytes())["keys"])
    except (ValueError, KeyError, TypeError):
        raise Untrusted(
            f"{path} is not the file of this service's keys",
            code="sealed-broken",
            hint="restore it, or remove it: a new key is made, and older tokens are refused",
        ) from None
