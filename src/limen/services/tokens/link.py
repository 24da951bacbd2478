"""The server's API as a token service uses it. The one place that knows its paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.adapters.server_link import ServerLink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class TokenLink(ServerLink):
    """Calls of one token service. Every method raises Unavailable if the server does not answer."""

    async def mesh(self) -> dict[str, Any]:
        """`{mesh, trust_domain, bundle_pem, identities, epoch}`."""
        return await self.call("GET", "/v1/roles/mesh")

    async def certificate(self, csr_pem: str, names: Sequence[str]) -> dict[str, Any]:
        """`{certificate_pem, bundle_pem, not_after_s, renew_at_s}`."""
        body = {"csr_pem": csr_pem, "names": [*names]}
        return await self.call("POST", "/v1/roles/certificate", body)

    async def announce(self, issuer: str, url: str, jwks: str) -> None:
        """Say where this service is, and with which keys it signs."""
        await self.call("POST", "/v1/roles/service", {"issuer": issuer, "url": url, "jwks": jwks})

    async def audit(self, source: str, after: int, entries: Sequence[Mapping[str, Any]]) -> int:
        """Hand over events `after`+1 …; the number up to which the server has all."""
        body = {"source": source, "after": after, "entries": [*entries]}
        return int((await self.call("POST", "/v1/roles/audit", body))["seq"])

    async def spend(self, purpose: str, value: str, until_s: float) -> bool:
        """Whether this id is used for the first time in the mesh."""
        body = {"purpose": purpose, "value": value, "until_s": until_s}
        return bool((await self.call("POST", "/v1/roles/spend", body))["first"])

    async def secret(self, namespace: str, name: str) -> dict[str, Any]:
        """What a TrustedIssuer names: `client_secret`, or `chain_pem` and `key_pem`."""
        return await self.call("GET", f"/v1/roles/secrets/{namespace}/{name}")

    async def revoke(self, issuer: str, by: str, value: str, until_s: float) -> None:
        """Refuse it from now on, everywhere in the mesh."""
        body = {"issuer": issuer, "by": by, "value": value, "until_s": until_s}
        await self.call("POST", "/v1/revocations", body)
