"""The token service, asked for one workload over mutual TLS with that workload's certificate.

RFC 8693. What comes back is looked at before it is believed to last: whose it is, for whom, until
when. Its signature is verified by the proxy that uses it. No token is in any message here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.adapters.mtls import client_context
from limen.core.tokens.claims import audiences_of, time_of
from limen.core.tokens.encoding import Malformed, parse_json
from limen.core.tokens.reader import read_claims, read_compact
from limen.errors import Unavailable, Untrusted

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    import httpx

    from limen.core.plan.node import TokenServicePlan
    from limen.services.agent.identity import Svid

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
_TIMEOUT_S = 4.0
"""Shorter than the proxy waits."""
_MAX_BYTES = 64 * 1024
_MAX_REASON = 200
_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. `issuers`: names of those whose users may come in; empty: any.

    An opaque token is shown to one issuer alone: to that one, if it is the only one.
    """

    audiences: tuple[str, ...]
    scopes: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()
    lifetime_s: int = 0


@dataclass(frozen=True, slots=True)
class Got:
    """A token, and when it ends; or `error`, RFC 8693's code, and a reason for developers."""

    token: str = field(default="", repr=False)
    expires_s: float = 0.0
    error: str = ""
    reason: str = ""


class TokenClient:
    """One workload's. `svid` and `roots` are asked anew: certificates and authorities change."""

    def __init__(self, svid: Callable[[], Svid | None], roots: Callable[[], str]) -> None:
        self._svid = svid
        self._roots = roots
        self._client: httpx.AsyncClient | None = None
        self._made_with: tuple[str, str] | None = None

    async def close(self) -> None:
        """End the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def exchange(self, service: TokenServicePlan, token: str, wanted: Wanted) -> Got:
        """Ask once. Raises Unavailable: nobody answered, or not as a token service does."""
        form: dict[str, str | list[str]] = {
            "grant_type": GRANT,
            "subject_token": token,
            "subject_token_type": ACCESS_TOKEN,
            "audience": list(wanted.audiences),
        }
        if wanted.scopes:
            form["scope"] = " ".join(wanted.scopes)
        if wanted.lifetime_s:
            form["expires_in"] = str(wanted.lifetime_s)
        if len(wanted.issuers) == 1:
            form["subject_issuer"] = wanted.issuers[0]
        status, answer = await self._post(f"{service.url}/token", form)
        if 400 <= status < 500 and status != 429 and isinstance(answer.get("error"), str):
            reason = str(answer.get("error_description", ""))[:_MAX_REASON]
            return Got(error=answer["error"], reason=reason)
        found = answer.get("access_token")
        if status != 200 or not isinstance(found, str):
            raise _unavailable(f"it answered {status}")
        expires_s = _judge(found, service, wanted)
        if wanted.lifetime_s:
            expires_s = min(expires_s, time.time() + wanted.lifetime_s)
        return Got(found, expires_s)

    async def _post(self, url: str, form: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        import httpx  # noqa: PLC0415 - 100 ms that most agents never need

        client = await self._connected()
        try:
            async with client.stream("POST", url, data=form) as response:
                raw = b""
                async for chunk in response.aiter_bytes():
                    raw += chunk
                    if len(raw) > _MAX_BYTES:
                        raise _unavailable("its answer is too large")
                return response.status_code, _parse(raw)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unavailable(type(error).__name__) from None

    async def _connected(self) -> httpx.AsyncClient:
        svid, roots = self._svid(), self._roots()
        if svid is None:
            raise _unavailable("this workload has no valid certificate at the moment")
        made_with = (svid.certificate_pem, roots)
        if self._client is None or self._made_with != made_with:
            context = client_context(svid.certificate_pem, svid.key_pem, roots)
            before, self._client = self._client, _client(context)
            self._made_with = made_with
            if before is not None:
                await before.aclose()
        return self._client


def _client(context: ssl.SSLContext) -> httpx.AsyncClient:
    """No proxy of the environment, no redirect: a token goes to this address or nowhere."""
    import httpx  # noqa: PLC0415 - as above

    return httpx.AsyncClient(
        verify=context,
        timeout=_TIMEOUT_S,
        limits=httpx.Limits(max_connections=_CONNECTIONS),
        trust_env=False,
        follow_redirects=False,
    )


def _judge(token: str, service: TokenServicePlan, wanted: Wanted) -> float:
    """The end of a token that is what was asked for. Raises Unavailable.

    `sub` is `NAME:SUBJECT` with the name of the TrustedIssuer whose user this is.
    """
    try:
        claims = read_claims(read_compact(token).payload)
        expires_s = time_of(claims, "exp")
        audiences = audiences_of(claims)
    except Untrusted as error:
        raise _unavailable(f"its token is none: {error.code}") from None
    if claims.get("iss") != service.issuer or not set(audiences) <= set(wanted.audiences):
        raise _unavailable("its token is of another issuer, or for somebody else")
    name = str(claims.get("sub", "")).partition(":")[0]
    if wanted.issuers and name not in wanted.issuers:
        raise Untrusted("the user is of an issuer that is not accepted here", code="issuer-unknown")
    return expires_s or 0.0


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        answer = parse_json(raw, max_depth=4, max_items=256)
    except Malformed:
        return {}
    return answer if isinstance(answer, dict) else {}


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        f"no token came from the token service: {why}",
        code="token-service",
        hint="is it running, and reachable from here by the name in its certificate?",
    )
