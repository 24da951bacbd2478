"""Which node calls: from its certificate, and then from its record, which may have been deleted.

The TLS layer has checked the chain against the control authority. Here the identity is read: one
URI SAN `spiffe://…/node/<id>`, exactly. A certificate without a live record opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509

from limen.errors import Unauthenticated

if TYPE_CHECKING:
    from grpc.aio import ServicerContext


@dataclass(frozen=True, slots=True)
class Peer:
    """An authenticated node: its id, and the certificate that it showed."""

    node_id: str
    certificate: x509.Certificate


def peer_certificate(context: ServicerContext[Any, Any]) -> x509.Certificate:
    """The verified certificate of the other side. Raises Unauthenticated."""
    pem = list(context.auth_context().get("x509_pem_cert", ()))
    if len(pem) != 1:
        raise Unauthenticated("the call carries no node certificate")
    try:
        return x509.load_pem_x509_certificate(pem[0])
    except ValueError:
        raise Unauthenticated("the node certificate cannot be read") from None
