"""Which node calls: the certificate that it showed in the handshake, as `Joining` judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from limen.errors import Unauthenticated

if TYPE_CHECKING:
    from limen.services.server.joining import Joining, Node
    from limen.services.server.node.rpc import Context


class NodeAuthenticator:
    """Every call and every stream asks this first. TLS has checked the chain."""

    def __init__(self, joining: Joining) -> None:
        self._joining = joining

    async def __call__(self, context: Context) -> Node:
        """The node. Raises Unauthenticated; Forbidden if it is known no more."""
        certificate = shown_certificate(context)
        return await self._joining.authenticate(certificate.public_bytes(Encoding.DER))


def shown_certificate(context: Context) -> x509.Certificate:
    """The certificate with which the connection was opened. Raises Unauthenticated."""
    pem = list(context.auth_context().get("x509_pem_cert", ()))
    if len(pem) != 1:
        raise Unauthenticated("the call carries no node certificate")
    try:
        return x509.load_pem_x509_certificate(pem[0])
    except ValueError:
        raise Unauthenticated("the node certificate cannot be read") from None
