"""Transport sockets: mutual TLS 1.3 between proxies, nothing else.

The validation context has two halves: the bundle comes as a Secret, the names that a peer may have
stand here, so that a bundle alone never lets anybody in. No session is resumed: a resumed session
would skip the current trust bundle (CVE-2022-21654).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import wrappers_pb2

from limen.core.envoy import names
from limen.core.envoy.address import ads_source
from limen.core.envoy.encoded import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from limen.core.model.names import SpiffeId

NOBODY = "spiffe://nobody.invalid/"
"""A name that no certificate has: Envoy reads an empty list of names as "any name"."""


@lru_cache(maxsize=64)
def inbound_socket(trusted_domains: tuple[str, ...]) -> base_pb2.TransportSocket:
    """The callee's side: a client certificate of one of the trusted domains is required."""
    matchers = _of_domains(trusted_domains)
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=_common_context(matchers, ("h2", "http/1.1")),
        require_client_certificate=wrappers_pb2.BoolValue(value=True),
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def outbound_socket(principals: Sequence[SpiffeId], sni: str) -> base_pb2.TransportSocket:
    """The caller's side: only a peer with exactly one of `principals` is spoken to."""
    matchers = [string_pb2.StringMatcher(exact=str(p)) for p in principals]
    context = tls_pb2.UpstreamTlsContext(
        common_tls_context=_common_context(matchers, ("h2",)),
        sni=sni,
        max_session_keys=wrappers_pb2.UInt32Value(value=0),
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _common_context(
    uris: Iterable[string_pb2.StringMatcher], alpn: Sequence[str]
) -> tls_pb2.CommonTlsContext:
    return tls_pb2.CommonTlsContext(
        tls_params=common_pb2.TlsParameters(
            tls_minimum_protocol_version="TLSv1_3",
            tls_maximum_protocol_version="TLSv1_3",
        ),
        tls_certificate_sds_secret_configs=[sds_secret(names.SVID)],
        combined_validation_context=tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=_names_of_peers(uris),
            validation_context_sds_secret_config=sds_secret(names.BUNDLE),
        ),
        alpn_protocols=alpn,
    )


def mesh_peers(trusted_domains: tuple[str, ...]) -> common_pb2.CertificateValidationContext:
    """Any workload of these domains."""
    return _names_of_peers(_of_domains(trusted_domains))


def _of_domains(trusted_domains: tuple[str, ...]) -> list[string_pb2.StringMatcher]:
    return [string_pb2.StringMatcher(prefix=f"spiffe://{d}/") for d in trusted_domains]


def _names_of_peers(
    uris: Iterable[string_pb2.StringMatcher],
) -> common_pb2.CertificateValidationContext:
    matchers = list(uris) or [string_pb2.StringMatcher(exact=NOBODY)]
    return common_pb2.CertificateValidationContext(
        match_typed_subject_alt_names=[
            common_pb2.SubjectAltNameMatcher(san_type="URI", matcher=m) for m in matchers
        ]
    )


def sds_secret(name: str) -> secret_pb2.SdsSecretConfig:
    """A Secret that comes by itself."""
    return secret_pb2.SdsSecretConfig(name=name, sds_config=ads_source())
