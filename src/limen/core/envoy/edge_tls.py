"""TLS that ends at a gateway: certificates by SDS, so that a new one touches no listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import wrappers_pb2

from limen.core.envoy import names
from limen.core.envoy.encoded import pack
from limen.core.envoy.tls import mesh_peers, sds_secret
from limen.core.model.gateway import ServerTlsMode

if TYPE_CHECKING:
    from limen.core.plan.edge import ClientCheckPlan, EdgeTls

_Combined = tls_pb2.CommonTlsContext.CombinedCertificateValidationContext
_NAME_TYPES = ("DNS", "URI", "EMAIL", "IP_ADDRESS")


def edge_socket(tls: EdgeTls, trusted_domains: tuple[str, ...]) -> base_pb2.TransportSocket:
    """The gateway's side. Sessions are resumed only where no client certificate is judged."""
    mesh = tls.mode is ServerTlsMode.ISTIO_MUTUAL
    judged = mesh or tls.client is not None
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_params=common_pb2.TlsParameters(
                tls_minimum_protocol_version=tls.minimum.name.replace("V1_", "TLSv1_"),
                tls_maximum_protocol_version=tls.maximum.name.replace("V1_", "TLSv1_"),
                cipher_suites=tls.ciphers,
            ),
            tls_certificate_sds_secret_configs=[sds_secret(names.SVID)]
            if mesh
            else [
                sds_secret(names.edge_certificate(ref.namespace, ref.name))
                for ref in tls.certificates
            ],
            combined_validation_context=_validation(tls, trusted_domains),
            alpn_protocols=["h2", "http/1.1"],
        ),
        require_client_certificate=wrappers_pb2.BoolValue(
            value=mesh or (tls.client is not None and tls.client.required)
        ),
        disable_stateless_session_resumption=judged,
        disable_stateful_session_resumption=judged,
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _validation(tls: EdgeTls, trusted_domains: tuple[str, ...]) -> _Combined | None:
    if tls.mode is ServerTlsMode.ISTIO_MUTUAL:
        return _Combined(
            default_validation_context=mesh_peers(trusted_domains),
            validation_context_sds_secret_config=sds_secret(names.BUNDLE),
        )
    if tls.client is None:
        return None
    ref = tls.client.authorities
    return _Combined(
        default_validation_context=_client(tls.client),
        validation_context_sds_secret_config=sds_secret(
            names.edge_authorities(ref.namespace, ref.name)
        ),
    )


def _client(check: ClientCheckPlan) -> common_pb2.CertificateValidationContext:
    return common_pb2.CertificateValidationContext(
        match_typed_subject_alt_names=[
            common_pb2.SubjectAltNameMatcher(
                san_type=kind, matcher=string_pb2.StringMatcher(exact=name)
            )
            for name in check.names
            for kind in _NAME_TYPES
        ],
        verify_certificate_spki=check.spki_sha256,
        verify_certificate_hash=check.certificate_sha256,
    )
