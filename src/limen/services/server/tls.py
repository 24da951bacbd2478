"""The server's own TLS: one identity from the control authority, on the API and the node port.

Only TLS 1.3. The key stays in memory: OpenSSL wants a file, so it gets an anonymous one.
"""

from __future__ import annotations

import ipaddress
import ssl
from typing import TYPE_CHECKING

import grpc

from limen.adapters.mtls import load_chain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.services.server.authority import Authority, IssuedServer


class ServerIdentity:
    """The present certificate, renewed in place; new handshakes on both ports use the new one."""

    def __init__(self, authority: Authority, names: Iterable[str]) -> None:
        self._authority = authority
        self._names = tuple(names)
        self._issued: IssuedServer | None = None
        self.renewals = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3

    @property
    def issued(self) -> IssuedServer:
        """The present certificate and key."""
        if self._issued is None:
            raise AssertionError("renew() comes first")
        return self._issued

    async def renew(self) -> None:
        """Get a new key and certificate."""
        addresses = [n for n in self._names if _is_address(n)]
        hosts = [n for n in self._names if not _is_address(n)]
        issued = await self._authority.issue_server(hosts, addresses)
        load_chain(self.context, issued.chain_pem, issued.key_pem)
        self._issued = issued
        self.renewals += 1

    def node_credentials(self) -> grpc.ServerCredentials:
        """For the node port: a client certificate of the control authority is required."""
        return grpc.dynamic_ssl_server_credentials(
            self._node_configuration(), self._node_configuration, require_client_authentication=True
        )

    def _node_configuration(self) -> grpc.ServerCertificateConfiguration:
        issued = self.issued
        return grpc.ssl_server_certificate_configuration(
            [(issued.key_pem.encode(), issued.chain_pem.encode())],
            root_certificates=issued.bundle_pem.encode(),
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
