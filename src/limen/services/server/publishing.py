"""Sets of policies signed by the server that sends them, so that every copy says whose it is.

The signature covers the store's history, the host that sends and the whole set with its epochs.
The same set stays the same resource, whoever signed it and when.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from limen.core.envoy.policies import content_of, signed_set, statement

if TYPE_CHECKING:
    from limen.core.envoy.encoded import Encoded
    from limen.services.server.tls import ServerIdentity

_KEPT = 1024


class PolicySigner:
    """Signs by the server's present identity; a set that is sent often is signed once."""

    def __init__(self, identity: ServerIdentity, store_epoch: str) -> None:
        self._identity = identity
        self._store = store_epoch
        self._signed: dict[str, Encoded] = {}
        self._renewals = 0

    def sign(self, encoded: Encoded) -> Encoded:
        """The set with its signature in front."""
        if self._renewals != self._identity.renewals or len(self._signed) >= _KEPT:
            self._renewals = self._identity.renewals
            self._signed.clear()
        known = self._signed.get(encoded.version)
        if known is None:
            known = self._signed[encoded.version] = self._sign(encoded)
        return known

    def _sign(self, encoded: Encoded) -> Encoded:
        issued = self._identity.issued
        key = load_pem_private_key(issued.key_pem.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the server's key is no EC key")
        signature = key.sign(statement(self._store, content_of(encoded.body)), ec.ECDSA(SHA256()))
        header = {"store": self._store, "signature": signature.hex(), "chain": issued.chain_pem}
        return signed_set(encoded, json.dumps(header).encode())
