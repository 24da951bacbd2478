"""Secrets: the trust bundle and a workload's certificate with its key."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2

from limen.core.envoy import names
from limen.core.envoy.encoded import encode
from limen.core.plan.edge import AuthoritiesPlan, CertificatePlan
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.envoy.encoded import Encoded
    from limen.core.plan.edge import SecretPlan

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def bundle_resource(pem: bytes, name: str = names.BUNDLE) -> Encoded:
    """Secret with the authorities (PEM) that a peer's certificate may chain to.

    Raises InvalidInput if `pem` holds none: Envoy would then verify nothing.
    """
    if _CERTIFICATE not in pem:
        raise InvalidInput("the trust bundle holds no certificate", code="empty-bundle")
    context = common_pb2.CertificateValidationContext(trusted_ca=_inline(pem))
    return encode(name, secret_pb2.Secret(name=name, validation_context=context))


def svid_resource(chain_pem: bytes, key_pem: bytes, name: str = names.SVID) -> Encoded:
    """Secret with a certificate chain (leaf first) and its private key, both PEM.

    Raises InvalidInput if either is empty. The result contains the key: never log it.
    """
    if _CERTIFICATE not in chain_pem or b"PRIVATE KEY-----" not in key_pem:
        raise InvalidInput("certificate chain or private key is missing", code="empty-svid")
    certificate = common_pb2.TlsCertificate(
        certificate_chain=_inline(chain_pem), private_key=_inline(key_pem)
    )
    return encode(name, secret_pb2.Secret(name=name, tls_certificate=certificate))


def given_resource(plan: SecretPlan) -> Encoded:
    """A secret given by hand. May contain a key: for that gateway's proxy only, never logged."""
    match plan:
        case CertificatePlan(ref, chain_pem, key):
            name = names.edge_certificate(ref.namespace, ref.name)
            return svid_resource(chain_pem, key.reveal(), name)
        case AuthoritiesPlan(ref, bundle_pem):
            return bundle_resource(bundle_pem, names.edge_authorities(ref.namespace, ref.name))
        case _:
            assert_never(plan)


def _inline(data: bytes) -> base_pb2.DataSource:
    return base_pb2.DataSource(inline_bytes=data)
