"""Whose key is it, when a token brings its certificate chain? The judge of `tokens/service.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from limen.core.pki.chain import verify_workload_chain
from limen.core.pki.reading import load_certificate
from limen.core.tokens.service import Signer
from limen.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def chain_verifier(
    roots: Sequence[bytes], trust_domain: str, at_s: float
) -> Callable[[Sequence[bytes]], Signer]:
    """Verifies chains (DER, leaf first) of workloads of `trust_domain` as mutual TLS would.

    What it returns raises Untrusted.
    """

    def verify(chain: Sequence[bytes]) -> Signer:
        identity, leaf = verify_workload_chain(chain, roots, trust_domain, at_s)
        key = load_certificate(leaf.der).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise Untrusted("the certificate's key is not P-256", code="certificate-untrusted")
        return Signer(str(identity), key)

    return verify
