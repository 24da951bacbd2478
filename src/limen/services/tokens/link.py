"""The server's API as a token service uses it. The one place that knows its paths."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any, cast

import httpx

from limen.errors import LimenError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from limen.services.tokens.settings import ServerPlace

TIMEOUT_S = 10.0
SILENCE_S = 8.0
"""A watch that says nothing for that long is broken: the server speaks every 2 s."""
_SECRET_CHARS = 300


class ServerLink:
    """Calls of one role. Every method raises Unavailable if the server does not answer."""

    def __init__(self, place: ServerPlace) -> None:
        context = ssl.create_default_context(cadata=place.ca_pem)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._http = httpx.AsyncClient(
            base_url=place.url,
            verify=context,
            headers={"authorization": f"Bearer {place.token}"},
            trust_env=False,
            timeout=TIMEOUT_S,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._http.aclose()

    async def mesh(self) -> dict[str, Any]:
        """`{mesh, trust_domain, bundle_pem, identities, epoch}`."""
        return await self._call("GET", "/v1/roles/mesh")

    async def certificate(self, csr_pem: str, names: Sequence[str]) -> dict[str, Any]:
        """`{certificate_pem, bundle_pem, not_after_s, renew_at_s}`."""
        body = {"csr_pem": csr_pem, "names": [*names]}
        return await self._call("POST", "/v1/roles/certificate", body)

    async def announce(self, issuer: str, url: str, jwks: str) -> None:
        """Say where this service is, and with which keys it signs."""
        await self._call("POST", "/v1/roles/service", {"issuer": issuer, "url": url, "jwks": jwks})

    async def audit(self, source: str, after: int, entries: Sequence[Mapping[str, Any]]) -> int:
        """Hand over events `after`+1 …; the number up to which the server has all."""
        body = {"source": source, "after": after, "entries": [*entries]}
        return int((await self._call("POST", "/v1/roles/audit", body))["seq"])

    async def spend(self, purpose: str, value: str, until_s: float) -> bool:
        """Whether this id is used for the first time in the mesh."""
        body = {"purpose": purpose, "value": value, "until_s": until_s}
        return bool((await self._call("POST", "/v1/roles/spend", body))["first"])

    async def secret(self, namespace: str, name: str) -> dict[str, Any]:
        """What a TrustedIssuer names: `client_secret`, or `chain_pem` and `key_pem`."""
        return await self._call("GET", f"/v1/roles/secrets/{namespace}/{name}")

    async def revoke(self, issuer: str, by: str, value: str, until_s: float) -> None:
        """Refuse it from now on, everywhere in the mesh."""
        body = {"issuer": issuer, "by": by, "value": value, "until_s": until_s}
        await self._call("POST", "/v1/revocations", body)

    async def watch(
        self, kinds: Sequence[str], after: int, epoch: str
    ) -> AsyncIterator[dict[str, Any]]:
        """Lines of the watch until it ends."""
        params = httpx.QueryParams({"kind": [*kinds], "after": after, "epoch": epoch})
        timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        try:
            async with self._http.stream(
                "GET", "/v1/roles/watch", params=params, timeout=timeout
            ) as response:
                if response.status_code != 200:
                    raise _refused(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    yield cast("dict[str, Any]", json.loads(line))
        except (httpx.HTTPError, ValueError) as error:
            raise _down(error) from None

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, json=body)
            if response.status_code != 200:
                raise _refused(response.status_code, response.content)
            return cast("dict[str, Any]", response.json())
        except (httpx.HTTPError, ValueError) as error:
            raise _down(error) from None


def _down(error: Exception) -> Unavailable:
    return Unavailable(
        f"the server does not answer ({type(error).__name__})",
        code="server-unavailable",
        hint="look whether `limen server run` is up and reachable from here",
    )


def _refused(status: int, body: bytes) -> LimenError:
    try:
        said = json.loads(body)
        code, message = str(said["code"]), str(said["message"])[:_SECRET_CHARS]
    except (ValueError, KeyError, TypeError):
        code, message = f"http-{status}", "no reason was given"
    return LimenError(f"the server refuses: {message}", code=code)
