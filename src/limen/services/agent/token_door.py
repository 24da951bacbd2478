"""The agent's two doors for tokens: one for the workload's proxy, one for the workload itself.

Proxies ask about tokens that they have not seen (`core/envoy/lua_text`); programs ask for a token
with another audience (`limen.sdk.exchange`). One exchange is in flight for each question, however
many ask it at once. Nothing is kept here: proxies do that, and forget it when they are told to.
Who may open a door is decided by its directory: the proxy's is the agent's alone, the other one the
workload's.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from limen.adapters.unix_http import HttpReply, HttpRequest, UnixHttpServer
from limen.core.model.token_service import OWN_ISSUER
from limen.core.model.user_context import HopStyle
from limen.core.tokens.encoding import Malformed, parse_json
from limen.core.tokens.reader import read_claims, read_compact
from limen.errors import Unavailable, Untrusted
from limen.services.agent.token_client import Got, TokenClient, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from limen.core.plan.node import TokenServicePlan

    Question = tuple[TokenServicePlan, str, Wanted]

MAX_TOKEN_CHARS = 16 * 1024
MAX_AUDIENCES = 8


class TokenDoor:
    """Both doors of one workload. `service`: which token service counts now, None for none."""

    def __init__(
        self,
        proxy_path: Path,
        program_path: Path,
        client: TokenClient,
        service: Callable[[], TokenServicePlan | None],
    ) -> None:
        self._client = client
        self._service = service
        self._flights: dict[Question, asyncio.Task[Got]] = {}
        self._proxies = UnixHttpServer(proxy_path, self.answer_proxy)
        self._programs = UnixHttpServer(program_path, self.answer_program)

    async def start(self) -> None:
        """Open both sockets."""
        await self._proxies.start()
        await self._programs.start()

    async def close(self) -> None:
        """Close them, and end what is under way."""
        await self._proxies.close()
        await self._programs.close()
        for task in self._flights.values():
            task.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)
        await self._client.close()

    async def answer_proxy(self, request: HttpRequest) -> HttpReply:
        """`x-about`: STYLE ISSUERS SCOPES LIFETIME CACHE NEGATIVE AUDIENCE…; the body is the token.

        200 with the new token, 403 with why not, 503; `x-cache-ms` says how long that holds.
        """
        words = request.headers.get("x-about", "").split(" ")
        token = _token(request.body)
        if len(words) < 7 or words[0] != HopStyle.EXCHANGED.value or not token:
            return HttpReply(400)
        lifetime_s, cache_s, negative_s = (int(word) for word in words[3:6])
        try:
            issuers = self._issuers(token, _listed(words[1]))
            wanted = Wanted(tuple(words[6:]), _listed(words[2]), issuers, lifetime_s)
            got = await self._ask(token, wanted)
        except Untrusted as error:
            got = Got(error="invalid_request", reason=error.message)
        except Unavailable as error:
            return HttpReply(503, error.code.encode())
        if got.error:
            said = f"{got.error}: {got.reason}\n".encode("ascii", "replace")
            return HttpReply(403, said, _lasting(negative_s))
        lasts_s = min(float(cache_s), got.expires_s - time.time())
        return HttpReply(200, got.token.encode(), _lasting(lasts_s))

    async def answer_program(self, request: HttpRequest) -> HttpReply:
        """`POST /exchange {"token", "audience", "scope"}`, answered as RFC 8693 does."""
        if (request.method, request.path) != ("POST", "/exchange"):
            return HttpReply(404)
        try:
            asked = parse_json(request.body, max_depth=1, max_items=8)
        except Malformed:
            asked = None
        texts = asked if isinstance(asked, dict) else {}
        token, audience, scope = (texts.get(n, "") for n in ("token", "audience", "scope"))
        if not all(isinstance(one, str) for one in (token, audience, scope)):
            return _refusal(400, "invalid_request", "token, audience and scope are texts")
        if not _token(token.encode()) or not audience:
            return _refusal(400, "invalid_request", "a token and an audience are needed")
        try:
            got = await self._ask(token, Wanted((audience,), tuple(scope.split())))
        except Unavailable as error:
            return _refusal(503, "temporarily_unavailable", error.message)
        if got.error:
            return _refusal(400, got.error, got.reason)
        answer = {
            "access_token": got.token,
            "token_type": "Bearer",
            "expires_in": max(0, int(got.expires_s - time.time())),
        }
        return _json(200, answer)

    def _issuers(self, token: str, listed: tuple[str, ...]) -> tuple[str, ...]:
        """Whose users this token may bring, of those that are accepted; empty: anybody's.

        A token of the token service itself may be of any user, and comes in only where `mesh` is
        listed; that lets no other issuer's in. Raises Untrusted.
        """
        service = self._service()
        if not listed or service is None:
            return ()
        own = _claimed_issuer(token) == service.issuer
        others = tuple(one for one in listed if one != OWN_ISSUER)
        if (own and OWN_ISSUER not in listed) or (not own and not others):
            raise Untrusted("tokens of this issuer are not accepted here", code="issuer-unknown")
        return () if own else others

    async def _ask(self, token: str, wanted: Wanted) -> Got:
        """Ask the token service, or wait for whoever asks it the same. Raises Unavailable."""
        service = self._service()
        if service is None or not service.url:
            raise Unavailable(
                "this mesh has no token service",
                code="no-token-service",
                hint="run one: limen server run --role tokens",
            )
        question = (service, token, wanted)
        flight = self._flights.get(question)
        if flight is None:
            flight = asyncio.create_task(self._exchange(*question))
            self._flights[question] = flight
            flight.add_done_callback(lambda _: self._flights.pop(question, None))
        return await asyncio.shield(flight)

    async def _exchange(self, service: TokenServicePlan, token: str, wanted: Wanted) -> Got:
        try:
            return await self._client.exchange(service, token, wanted)
        except Untrusted as error:
            return Got(error="invalid_request", reason=error.message)


def _token(raw: bytes) -> str:
    """A token as text; "" if it is none that a header could carry."""
    if len(raw) > MAX_TOKEN_CHARS or not raw.isascii():
        return ""
    text = raw.decode("ascii")
    return text if text.isprintable() and " " not in text else ""


def _claimed_issuer(token: str) -> str:
    """What it says of itself; the token service verifies that. Empty: it is opaque."""
    try:
        return str(read_claims(read_compact(token).payload).get("iss", ""))
    except Untrusted:
        return ""


def _listed(word: str) -> tuple[str, ...]:
    return () if word == "-" else tuple(word.split(","))


def _lasting(lasts_s: float) -> dict[str, str]:
    return {"x-cache-ms": str(max(0, int(lasts_s * 1000)))}


def _json(status: int, value: dict[str, object]) -> HttpReply:
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    return HttpReply(status, json.dumps(value).encode(), headers)


def _refusal(status: int, error: str, reason: str) -> HttpReply:
    return _json(status, {"error": error, "error_description": reason})
