"""Was this signed by one of these keys? The cryptographic layer, without any claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.tokens.algorithms import is_valid
from limen.core.tokens.reader import Jws, pinned, read_compact
from limen.core.tokens.refusal import refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.tokens.jwks import KeySet


def verify_signature(compact: str | bytes, keys: KeySet, algorithms: Iterable[str]) -> bytes:
    """The payload of a token that one of `keys` signed with one of `algorithms`.

    The payload may be any bytes. HMAC needs a key set read with `symmetric` and the algorithm
    named here; a key verifies algorithms of its own kind only. Raises Untrusted (`refusal`).
    """
    jws = read_compact(compact)
    verify_jws(jws, keys, frozenset(algorithms))
    return jws.payload


def verify_jws(jws: Jws, keys: KeySet, algorithms: frozenset[str]) -> None:
    """As `verify_signature`, for a token that was read before. Raises Untrusted."""
    algorithm = pinned(jws, algorithms)
    candidates = keys.candidates(algorithm, jws.kid)
    if not candidates:
        raise refuse("key-unknown", "its issuer has no fit key for it")
    if not any(is_valid(algorithm, key.public, jws.signature, jws.signed) for key in candidates):
        raise refuse("signature-invalid", "its signature is not of its issuer")
