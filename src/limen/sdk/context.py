"""On whose behalf is this request? The user that the sidecar verified, inside an application.

    user = current()              # None: there is no user. Nobody is ever guessed
    @require(scope="orders.write", claims={"tenant": "acme"})
    def create(...): ...

The sidecar verifies the token and writes two headers, which it takes from every other request:
`x-limen-user` (the token's payload) and `x-limen-user-context` (the token, to be passed on). An
adapter (`asgi`, `wsgi`, `grpc`) reads them for the time of one request; `httpx` and `requests`
attach them to what is sent meanwhile. `require` is the second line of defence: the mesh's policy is
the first. Nothing here verifies a signature, so the application must not be reachable but through
its sidecar (`limen check` says what isolation there is).

Only the standard library is imported, and no code of server or agent.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from limen.core.tokens.encoding import Malformed, decode_base64url, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "CONTEXT_HEADER",
    "USER_HEADER",
    "AccessRefused",
    "UserContext",
    "check",
    "current",
    "read_context",
    "require",
    "use",
]

USER_HEADER = "x-limen-user"
CONTEXT_HEADER = "x-limen-user-context"
MAX_CHARS = 16 * 1024
_MAX_DEPTH = 16
_MAX_ITEMS = 4096
_MAX_ACTORS = 16
P = ParamSpec("P")
R = TypeVar("R")


class AccessRefused(Exception):
    """`status` is 401 (no user, or nobody can say who) or 403 (not this user)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class UserContext:
    """A verified user. The pair of `issuer` and `subject` is who it is; neither alone is.

    `chain`: workloads through which the token came, oldest first. `token` is passed on, and never
    shown.
    """

    issuer: str
    subject: str
    scopes: frozenset[str]
    audiences: tuple[str, ...]
    chain: tuple[str, ...]
    expires_s: float
    claims: Mapping[str, Any] = field(repr=False)
    token: str = field(repr=False)


_current: ContextVar[UserContext | None] = ContextVar("limen_user", default=None)


def current() -> UserContext | None:
    """The user of the request that is being answered here; None without one."""
    return _current.get()


@contextmanager
def use(user: UserContext | None) -> Iterator[None]:
    """For the time of the block this is the user, in this thread or task and what it starts."""
    before = _current.set(user)
    try:
        yield
    finally:
        _current.reset(before)


def read_context(headers: Iterable[tuple[str, str]]) -> UserContext | None:
    """The user in a request's headers (names in lower case); None without one.

    Raises AccessRefused (401) if the headers contradict each other or cannot be read: then somebody
    else than the sidecar wrote them.
    """
    found: dict[str, list[str]] = {USER_HEADER: [], CONTEXT_HEADER: []}
    for name, value in headers:
        if name in found:
            found[name].append(value)
    payloads, tokens = found[USER_HEADER], found[CONTEXT_HEADER]
    if not payloads and not tokens:
        return None
    if len(payloads) != 1 or len(tokens) != 1:
        raise _unreadable("there is not one of each header")
    token = tokens[0].removeprefix("Bearer ")
    parts = token.split(".")
    if len(token) > MAX_CHARS or len(parts) != 3 or parts[1] != payloads[0].rstrip("="):
        raise _unreadable("the two headers are not of one token")
    return _read(parts[1], token)


def check(
    user: UserContext | None,
    scope: str | Sequence[str] = (),
    claims: Mapping[str, Any] | None = None,
) -> UserContext:
    """The user, who has every scope and every claim. Raises AccessRefused.

    A claim that is a list has to hold the wanted value; any other has to be it, type and all.
    """
    if user is None:
        raise AccessRefused(401, "this needs a user, and the request has none")
    wanted = scope.split() if isinstance(scope, str) else scope
    missing = [one for one in wanted if one not in user.scopes]
    if missing:
        raise AccessRefused(403, f"the user's token lacks the scope {missing[0]}")
    for name, value in (claims or {}).items():
        if not _has(user.claims.get(name), value):
            raise AccessRefused(403, f"the user's token lacks the wanted {name}")
    return user


def require(
    scope: str | Sequence[str] = (), claims: Mapping[str, Any] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function, generator or coroutine function that only such a user may call."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def later(*args: P.args, **kwargs: P.kwargs) -> Any:
                check(current(), scope, claims)
                return await function(*args, **kwargs)

            return later  # type: ignore[return-value] # a coroutine function, as it was

        @functools.wraps(function)
        def now(*args: P.args, **kwargs: P.kwargs) -> R:
            check(current(), scope, claims)
            return function(*args, **kwargs)

        return now

    return decorate


def _read(payload: str, token: str) -> UserContext:
    try:
        raw = decode_base64url(payload)
        claims = parse_json(raw, max_depth=_MAX_DEPTH, max_items=_MAX_ITEMS)
    except Malformed:
        raise _unreadable("its payload is not a strict JSON object") from None
    if not isinstance(claims, dict) or not isinstance(claims.get("exp"), int | float):
        raise _unreadable("it has no claims, or no end")
    issuer, subject = _user_of(claims)
    audiences, scope = claims.get("aud", []), claims.get("scope", "")
    if not isinstance(scope, str):
        raise _unreadable("its scope is not a text")
    return UserContext(
        issuer,
        subject,
        frozenset(scope.split(" ")) - {""},
        (audiences,) if isinstance(audiences, str) else tuple(map(str, audiences)),
        _chain_of(claims),
        float(claims["exp"]),
        claims,
        token,
    )


def _user_of(claims: Mapping[str, Any]) -> tuple[str, str]:
    """Where a token service exchanged the token, `sub_id` says whose user it is (RFC 9493)."""
    named = claims.get("sub_id")
    source = named if isinstance(named, dict) and named.get("format") == "iss_sub" else claims
    issuer, subject = source.get("iss"), source.get("sub")
    if not isinstance(issuer, str) or not isinstance(subject, str) or not issuer or not subject:
        raise _unreadable("it names no user")
    return issuer, subject


def _chain_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """`call_chain` of a transaction token, or `act` (RFC 8693, section 4.1), oldest first."""
    listed = claims.get("call_chain")
    if isinstance(listed, list):
        return tuple(map(str, listed))
    found: list[str] = []
    act = claims.get("act")
    while isinstance(act, dict) and len(found) < _MAX_ACTORS:
        found.append(str(act.get("sub", "")))
        act = act.get("act")
    return tuple(reversed(found))


def _has(found: object, wanted: object) -> bool:
    if isinstance(found, list) and not isinstance(wanted, list):
        return any(_same(one, wanted) for one in found)
    return _same(found, wanted)


def _same(one: object, other: object) -> bool:
    """Python's `True == 1` would let a number pass for a yes."""
    return type(one) is type(other) and one == other


def _unreadable(why: str) -> AccessRefused:
    return AccessRefused(401, f"the user context cannot be read: {why}")
