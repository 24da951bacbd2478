"""Ask an issuer about an opaque token (RFC 7662): once at a time, remembered for a short while.

What is remembered is found by the hash of everything that the answer depends on: the token, the
issuer, where and as whom it was asked, the audience and the scope that are wanted. An answer is
never used past the token's own end; "inactive" is remembered briefly; a provider's failure hardly
at all. A provider that is down, slow, lying or endless gives a refusal with its own code.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

from limen.adapters.judged_https import Question, ask, resolve_host
from limen.core.tokens.encoding import Malformed, parse_json
from limen.errors import LimenError, Unavailable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from limen.adapters.clock import Clock
    from limen.adapters.judged_https import FetchRules, Resolve
    from limen.core.model.token_service import Introspection, TrustedIssuer

MAX_ANSWER_BYTES = 64 * 1024
MAX_REMEMBERED = 100_000
FAILURE_S = 0.5
"""A failing provider is not asked more often about the same token."""
_CODES = {
    "fetch-too-large": "introspection-too-large",
    "fetch-content": "introspection-malformed",
    "fetch-status": "introspection-status",
    "fetch-redirected": "introspection-redirected",
    "fetch-certificate": "introspection-certificate",
    "fetch-address": "introspection-address",
}


@dataclass(frozen=True, slots=True)
class Credential:
    """By which the issuer knows us: HTTP Basic, or a TLS client certificate."""

    secret: str = field(default="", repr=False)
    context: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer is for; with the token's hash it is where the answer is remembered."""

    issuer: TrustedIssuer
    audiences: tuple[str, ...]
    scopes: tuple[str, ...]


@dataclass(slots=True)
class _Remembered:
    """`claims` None: inactive. `error`: the issuer could not be asked."""

    claims: Mapping[str, Any] | None
    until: float
    error: LimenError | None = None


_Key = bytes


class Introspector:
    """One service's. `credential` finds what a document's Secret holds."""

    def __init__(
        self,
        rules: FetchRules,
        clock: Clock,
        credential: Callable[[Introspection], Awaitable[Credential]],
        *,
        resolve: Resolve = resolve_host,
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._credential = credential
        self._resolve = resolve
        self._remembered: dict[_Key, _Remembered] = {}
        self._asking: dict[_Key, asyncio.Task[_Remembered]] = {}
        self.asked = 0

    async def active(self, token: str, wanted: Wanted) -> Mapping[str, Any] | None:
        """The claims of an active token; None for any other. Raises Unavailable, with its code."""
        key = _key_of(token, wanted)
        found = self._remembered.get(key)
        if found is None or self._clock.monotonic_s() >= found.until:
            found = await self._ask_once(key, token, wanted)
        if found.error is not None:
            raise found.error
        return found.claims

    def forget(self) -> None:
        """Documents have changed: ask again."""
        self._remembered.clear()

    async def _ask_once(self, key: _Key, token: str, wanted: Wanted) -> _Remembered:
        """However many want to know at once, the issuer is asked once."""
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._learn(key, token, wanted))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _learn(self, key: _Key, token: str, wanted: Wanted) -> _Remembered:
        asked = wanted.issuer.introspection
        if asked is None:
            raise AssertionError("an issuer without introspection is not asked")
        now, now_s = self._clock.monotonic_s(), self._clock.now_s()
        try:
            claims = await self._ask(asked, token)
        except LimenError as error:
            found = _Remembered(None, now + FAILURE_S, error)
        else:
            keep_s: float = asked.negative_cache_s
            if claims is not None:
                keep_s = min(asked.cache_s, _left_s(claims, now_s))
            found = _Remembered(claims, now + keep_s)
        self._remember(key, found)
        return found

    def _remember(self, key: _Key, found: _Remembered) -> None:
        self._remembered.pop(key, None)
        while len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = found

    async def _ask(self, asked: Introspection, token: str) -> Mapping[str, Any] | None:
        self.asked += 1
        try:
            async with asyncio.timeout(asked.timeout_s):
                credential = await self._credential(asked)
                question = _question(asked, token, credential)
                rules = replace(self._rules, timeout_s=asked.timeout_s)
                raw = await ask(asked.url, rules, MAX_ANSWER_BYTES, self._resolve, question)
        except TimeoutError:
            raise _unavailable("it did not answer in time", "introspection-timeout") from None
        except LimenError as error:
            code = _CODES.get(error.code, "introspection-failed")
            raise _unavailable(error.message, code) from None
        return parse_answer(raw)


def parse_answer(raw: bytes) -> Mapping[str, Any] | None:
    """An issuer's answer: the claims of an active token, None for another. Raises Unavailable."""
    try:
        value = parse_json(raw, max_depth=16, max_items=4096)
    except Malformed as error:
        raise _unavailable(f"its answer has a fault: {error}", "introspection-malformed") from None
    active = value.get("active") if isinstance(value, dict) else None
    if not isinstance(active, bool):
        raise _unavailable("its answer does not say active", "introspection-malformed")
    return {name: said for name, said in value.items() if name != "active"} if active else None


def _question(asked: Introspection, token: str, credential: Credential) -> Question:
    form = {"token": token, "token_type_hint": "access_token"}
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    if credential.context is None:
        pair = f"{quote_plus(asked.client_id)}:{quote_plus(credential.secret)}"
        basic = base64.b64encode(pair.encode()).decode("ascii")
        headers.append(("Authorization", f"Basic {basic}"))
    else:
        form["client_id"] = asked.client_id
    return Question("POST", tuple(headers), urlencode(form).encode(), credential.context)


def _left_s(claims: Mapping[str, Any], now_s: float) -> float:
    expires_s = claims.get("exp")
    if isinstance(expires_s, bool) or not isinstance(expires_s, int | float):
        return float("inf") if expires_s is None else 0.0
    return max(0.0, expires_s - now_s)


def _key_of(token: str, wanted: Wanted) -> _Key:
    asked = wanted.issuer.introspection
    place = (asked.url, asked.client_id) if asked is not None else ("", "")
    whole = [token, wanted.issuer.issuer, *place, wanted.audiences, wanted.scopes]
    return hashlib.sha256(json.dumps(whole).encode()).digest()


def _unavailable(why: str, code: str) -> Unavailable:
    return Unavailable(f"the issuer cannot be asked: {why}", code=code)
