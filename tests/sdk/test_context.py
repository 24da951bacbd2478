"""The user in an application: read, required, passed on; and nobody where nobody was verified."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from limen.sdk.context import (
    CONTEXT_HEADER,
    USER_HEADER,
    AccessRefused,
    UserContext,
    check,
    current,
    read_context,
    require,
    use,
)

CLAIMS = {
    "iss": "https://tokens.mesh",
    "sub": "ann",
    "sub_id": {"format": "iss_sub", "iss": "https://login.example", "sub": "ann"},
    "aud": ["items"],
    "exp": 2_000_000_000,
    "scope": "read write",
    "tenant": "acme",
    "roles": ["clerk", "buyer"],
    "act": {"sub": "spiffe://m/ns/a/sa/orders", "act": {"sub": "spiffe://m/ns/a/sa/gateway"}},
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(claims: Any = CLAIMS) -> str:
    raw = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return f"{b64(b'{}')}.{b64(raw)}.{b64(b'signature')}"


def headers(claims: Any = CLAIMS) -> list[tuple[str, str]]:
    text = token(claims)
    return [(USER_HEADER, text.split(".")[1]), (CONTEXT_HEADER, text)]


def user(claims: Any = CLAIMS) -> UserContext:
    found = read_context(headers(claims))
    assert found is not None
    return found


def status(claims: Any = None, sent: Any = None) -> int:
    with pytest.raises(AccessRefused) as caught:
        read_context(sent if sent is not None else headers(claims))
    return caught.value.status


def test_a_user_is_the_pair_that_the_first_issuer_named() -> None:
    found = user()
    assert (found.issuer, found.subject) == ("https://login.example", "ann")
    assert found.scopes == {"read", "write"}
    assert found.audiences == ("items",)
    assert found.chain == ("spiffe://m/ns/a/sa/gateway", "spiffe://m/ns/a/sa/orders")


def test_a_token_without_sub_id_names_its_own_issuers_user() -> None:
    claims = {name: CLAIMS[name] for name in ("iss", "sub", "exp")}
    assert (user(claims).issuer, user(claims).subject) == ("https://tokens.mesh", "ann")
    assert user(claims).scopes == frozenset()


def test_without_headers_there_is_no_user() -> None:
    assert read_context([("authorization", "Bearer a.b.c"), ("x-user", "ann")]) is None
    assert current() is None


@pytest.mark.parametrize(
    "sent",
    [
        headers()[:1],
        headers()[1:],
        [*headers(), headers()[0]],
        [*headers(), (CONTEXT_HEADER, token({**CLAIMS, "sub": "root"}))],
        [(USER_HEADER, token({**CLAIMS, "sub": "root"}).split(".")[1]), headers()[1]],
        [(USER_HEADER, headers()[0][1]), (CONTEXT_HEADER, "opaque")],
        [(USER_HEADER, "b"), (CONTEXT_HEADER, "a.b.c")],
        [(USER_HEADER, ""), (CONTEXT_HEADER, "")],
    ],
)
def test_headers_that_contradict_each_other_are_refused(sent: list[tuple[str, str]]) -> None:
    assert status(sent=sent) == 401


@pytest.mark.parametrize(
    "claims",
    [
        b'{"iss":"https://a","sub":"ann","sub":"root","exp":1}',
        b"[]",
        b"{",
        {"iss": "https://a", "sub": "ann"},
        {"iss": "https://a", "exp": 1},
        {"sub": "ann", "exp": 1},
        {"iss": "", "sub": "ann", "exp": 1},
        {"iss": "https://a", "sub": 7, "exp": 1},
        {**CLAIMS, "scope": ["read"]},
        {**CLAIMS, "sub_id": {"format": "iss_sub", "sub": "ann"}},
        {**CLAIMS, "x": "y" * 20_000},
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused(claims: Any) -> None:
    assert status(claims) == 401


def refused(*args: Any, who: UserContext | None = None) -> int:
    with pytest.raises(AccessRefused) as caught:
        check(who, *args)
    return caught.value.status


def test_scope_and_claims_are_required_as_they_are() -> None:
    found = user()
    assert check(found, "read write", {"tenant": "acme", "roles": "clerk"}) is found
    assert check(found, ["read"], {"roles": ["clerk", "buyer"]}) is found
    assert refused("admin", who=found) == 403
    assert refused("rea", who=found) == 403
    assert refused((), {"tenant": "ACME"}, who=found) == 403
    assert refused((), {"roles": "admin"}, who=found) == 403
    assert refused((), {"roles": ["clerk"]}, who=found) == 403


def test_a_number_is_no_yes() -> None:
    assert refused((), {"admin": True}, who=user({**CLAIMS, "admin": 1})) == 403
    assert refused((), {"level": 1}, who=user({**CLAIMS, "level": True})) == 403


def test_without_a_user_everything_required_is_refused() -> None:
    assert refused() == 401
    assert refused("read", {"tenant": "acme"}) == 401


@require(scope="read", claims={"tenant": "acme"})
def plain(word: str) -> str:
    return word


@require("read")
async def later(word: str) -> str:
    await asyncio.sleep(0)
    return word


async def test_require_guards_functions_of_both_kinds() -> None:
    assert asyncio.iscoroutinefunction(later)
    with pytest.raises(AccessRefused):
        plain("x")
    with pytest.raises(AccessRefused):
        await later("x")
    with use(user()):
        assert (plain("x"), await later("y")) == ("x", "y")
    with use(user({**CLAIMS, "tenant": "other"})), pytest.raises(AccessRefused):
        plain("x")


def test_require_guards_a_generator_before_its_first_step() -> None:
    @require("admin")
    def numbers() -> Any:
        yield 1

    with use(user()), pytest.raises(AccessRefused):
        numbers()


async def test_two_requests_at_once_do_not_see_each_others_user() -> None:
    both = asyncio.Event()
    seen: dict[str, str] = {}

    async def one(name: str) -> None:
        with use(user({**CLAIMS, "sub_id": None, "sub": name})):
            if len(seen) == 0:
                seen["first"] = name
                await both.wait()
            else:
                both.set()
            await asyncio.sleep(0)
            found = current()
            assert found is not None
            assert found.subject == name
            seen[name] = await asyncio.to_thread(lambda: current().subject)  # type: ignore[union-attr]

    await asyncio.gather(one("ann"), one("bob"))
    assert (seen["ann"], seen["bob"]) == ("ann", "bob")
    assert current() is None


def test_a_thread_that_nobody_gave_the_user_has_none() -> None:
    """A pool's thread answers many requests: a user who stayed there would be a guess."""
    found: list[Any] = []
    with use(user()):
        thread = threading.Thread(target=lambda: found.append(current()))
        thread.start()
        thread.join()
    assert found == [None]


def test_no_token_and_no_claim_is_shown() -> None:
    shown = repr(user())
    assert token() not in shown
    assert "acme" not in shown


_FORBIDDEN = ("limen.services", "limen.adapters", "limen.cli", "fastapi", "grpc", "cryptography")


@pytest.mark.parametrize("module", ["context", "asgi", "wsgi", "exchange", "requests"])
def test_importing_it_pulls_in_no_server_code(module: str) -> None:
    script = (
        f"import sys, limen.sdk.{module}\n"
        f"print([m for m in sys.modules if m.startswith({_FORBIDDEN!r})])\n"
        "print([m for m in sys.modules if m.split('.')[0] not in sys.stdlib_module_names"
        " and m.split('.')[0] not in ('limen', '__main__', 'sitecustomize')"
        " and not m.startswith('_')])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "[]"
    assert done.stdout.splitlines()[1] == "[]"


@pytest.mark.parametrize("module", ["grpc", "httpx"])
def test_an_adapter_pulls_in_its_library_and_no_server_code(module: str) -> None:
    script = (
        f"import sys, limen.sdk.{module}\n"
        "print([m for m in sys.modules"
        " if m.startswith(('limen.services', 'limen.adapters', 'limen.cli', 'fastapi'))])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
