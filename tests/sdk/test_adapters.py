"""The user in real frameworks and clients: ASGI, WSGI, gRPC, httpx, and the agent's door."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import grpc
import httpx
import pytest
from fastapi import FastAPI
from grpc import aio
from tests.sdk.test_context import CLAIMS, headers, token, user

from limen.sdk.asgi import UserContextMiddleware
from limen.sdk.context import CONTEXT_HEADER, AccessRefused, current, require, use
from limen.sdk.exchange import ExchangeFailed, Exchanger
from limen.sdk.grpc import (
    AioUserContextInterceptor,
    ContextClientInterceptor,
    UserContextInterceptor,
    aio_client_interceptors,
)
from limen.sdk.httpx import ContextAuth
from limen.sdk.requests import ContextAuth as RequestsAuth
from limen.sdk.wsgi import UserContextMiddleware as WsgiMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def name() -> str:
    found = current()
    return found.subject if found else "nobody"


# -- ASGI


def application() -> httpx.AsyncClient:
    app = FastAPI()
    app.add_middleware(UserContextMiddleware)

    @app.get("/who")
    async def who() -> str:
        return name()

    @app.get("/threaded")
    def threaded() -> str:
        return name()

    @app.get("/guarded")
    @require("admin")
    async def guarded() -> str:
        return name()

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://items")


async def test_asgi_sets_the_user_for_both_kinds_of_handlers() -> None:
    async with application() as client:
        for path in ("/who", "/threaded"):
            assert (await client.get(path, headers=headers())).json() == "ann"
            assert (await client.get(path)).json() == "nobody"


async def test_asgi_answers_what_require_refuses() -> None:
    async with application() as client:
        assert (await client.get("/guarded")).status_code == 401
        refused = await client.get("/guarded", headers=headers())
        assert refused.status_code == 403
        assert refused.json()["error"] == "access_refused"
        admin = headers({**CLAIMS, "scope": "admin"})
        assert (await client.get("/guarded", headers=admin)).json() == "ann"


async def test_asgi_refuses_a_context_that_somebody_else_wrote() -> None:
    async with application() as client:
        assert (await client.get("/who", headers=headers()[:1])).status_code == 401
        doubled = [*headers(), headers()[1]]
        assert (await client.get("/who", headers=doubled)).status_code == 401


async def test_asgi_closes_a_websocket_of_a_forged_context() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def never(*_: Any) -> None:
        raise AssertionError

    raw = [(n.encode(), v.encode()) for n, v in headers()[1:]]
    await UserContextMiddleware(never)({"type": "websocket", "headers": raw}, never, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


# -- WSGI


def wsgi(app: Any, sent: list[tuple[str, str]]) -> tuple[str, bytes]:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ.update({"HTTP_" + n.upper().replace("-", "_"): v for n, v in sent})
    statuses: list[str] = []
    parts = WsgiMiddleware(app)(environ, lambda status, _: statuses.append(status))
    body = b"".join(parts)
    if hasattr(parts, "close"):
        parts.close()
    return statuses[0], body


def streaming(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
    start("200 OK", [])
    yield name().encode()
    yield b"," + name().encode()


def test_wsgi_sets_the_user_while_the_body_is_made() -> None:
    assert wsgi(streaming, headers()) == ("200 OK", b"ann,ann")
    assert wsgi(streaming, []) == ("200 OK", b"nobody,nobody")
    assert current() is None


def test_wsgi_answers_what_require_refuses() -> None:
    @require("admin")
    def guarded(environ: dict[str, Any], start: Any) -> list[bytes]:
        raise AssertionError

    assert wsgi(guarded, [])[0] == "401 Unauthorized"
    assert wsgi(guarded, headers())[0] == "403 Forbidden"
    assert wsgi(guarded, headers()[1:])[0] == "401 Unauthorized"


# -- gRPC


def handlers(behaviours: dict[str, Any]) -> grpc.GenericRpcHandler[Any, Any]:
    kinds = {
        "One": grpc.unary_unary_rpc_method_handler,
        "Many": grpc.unary_stream_rpc_method_handler,
        "Gather": grpc.stream_unary_rpc_method_handler,
        "Talk": grpc.stream_stream_rpc_method_handler,
    }
    return grpc.method_handlers_generic_handler(
        "t.T", {kind: kinds[kind](b) for kind, b in behaviours.items()}
    )


@contextlib.contextmanager
def sync_server() -> Iterator[grpc.Channel]:
    @require("read")
    def one(request: bytes, context: Any) -> bytes:
        return name().encode()

    @require("read")
    def many(request: bytes, context: Any) -> Iterator[bytes]:
        yield name().encode()
        yield name().encode()

    def talk(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for _ in requests:
            yield name().encode()

    def gather(requests: Iterator[bytes], context: Any) -> bytes:
        return name().encode() + str(len(list(requests))).encode()

    pool = ThreadPoolExecutor(4)
    server = grpc.server(pool, interceptors=[UserContextInterceptor()])
    rooms = {"One": one, "Many": many, "Talk": talk, "Gather": gather}
    server.add_generic_rpc_handlers((handlers(rooms),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    try:
        yield grpc.intercept_channel(channel, ContextClientInterceptor())
    finally:
        channel.close()
        server.stop(None).wait()
        pool.shutdown()


def code(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    found: grpc.StatusCode = caught.value.code()
    return found


META = tuple(headers()[:1])
"""What the sidecar adds at the callee; the context header comes from the interceptor."""


def test_grpc_carries_the_user_in_all_four_kinds_of_calls() -> None:
    with sync_server() as channel, use(user()):
        one = channel.unary_unary("/t.T/One")(b"", metadata=META)
        many = list(channel.unary_stream("/t.T/Many")(b"", metadata=META))
        gather = channel.stream_unary("/t.T/Gather")(iter([b"", b""]), metadata=META)
        talk = list(channel.stream_stream("/t.T/Talk")(iter([b"", b""]), metadata=META))
    assert (one, many, gather, talk) == (b"ann", [b"ann", b"ann"], b"ann2", [b"ann", b"ann"])


def test_grpc_refuses_with_its_own_codes() -> None:
    with sync_server() as channel:
        one, many = channel.unary_unary("/t.T/One"), channel.unary_stream("/t.T/Many")
        assert code(lambda: one(b"")) is grpc.StatusCode.UNAUTHENTICATED
        assert code(lambda: one(b"", metadata=META)) is grpc.StatusCode.UNAUTHENTICATED
        weak = tuple(headers({**CLAIMS, "scope": ""})[:1])
        with use(user({**CLAIMS, "scope": ""})):
            assert code(lambda: one(b"", metadata=weak)) is grpc.StatusCode.PERMISSION_DENIED
            assert code(lambda: list(many(b"", metadata=weak))) is grpc.StatusCode.PERMISSION_DENIED


async def test_grpc_aio_carries_the_user_and_refuses() -> None:
    @require("read")
    async def one(request: bytes, context: Any) -> bytes:
        return name().encode()

    async def many(request: bytes, context: Any) -> Any:
        yield name().encode()
        yield name().encode()

    async def talk(requests: Any, context: Any) -> None:
        async for _ in requests:
            await context.write(name().encode())

    server = aio.server(interceptors=[AioUserContextInterceptor()])
    server.add_generic_rpc_handlers((handlers({"One": one, "Many": many, "Talk": talk}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        channel = aio.insecure_channel(f"127.0.0.1:{port}", interceptors=aio_client_interceptors())
        async with channel:
            call = channel.unary_unary("/t.T/One")
            with use(user()):
                assert await call(b"", metadata=META) == b"ann"
                stream = channel.unary_stream("/t.T/Many")(b"", metadata=META)
                assert [item async for item in stream] == [b"ann", b"ann"]
                talking = channel.stream_stream("/t.T/Talk")(iter([b""]), metadata=META)
                assert [item async for item in talking] == [b"ann"]
            with pytest.raises(aio.AioRpcError) as caught:
                await call(b"")
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        await server.stop(None)


# -- what is sent


def echo(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=dict(request.headers))


async def test_httpx_attaches_the_user_and_nobody_elses() -> None:
    mine = {CONTEXT_HEADER: "forged"}
    async with httpx.AsyncClient(transport=httpx.MockTransport(echo), auth=ContextAuth()) as client:
        with use(user()):
            seen = (await client.get("http://items/", headers=mine)).json()
            assert seen[CONTEXT_HEADER] == token()
        assert CONTEXT_HEADER not in (await client.get("http://items/", headers=mine)).json()


def test_httpx_attaches_it_without_an_event_loop() -> None:
    with httpx.Client(transport=httpx.MockTransport(echo), auth=ContextAuth()) as sync:
        with use(user()):
            assert sync.get("http://items/").json()[CONTEXT_HEADER] == token()
        assert CONTEXT_HEADER not in sync.get("http://items/").json()


def test_an_audience_wants_an_exchanger_and_the_other_way_round() -> None:
    for wrong in ({"audience": "items"}, {"exchanger": Exchanger("x")}):
        with pytest.raises(ValueError, match="audience"):
            RequestsAuth(**wrong)  # type: ignore[arg-type]


# -- the agent's door


class Door(BaseHTTPRequestHandler):
    asked: list[dict[str, Any]]
    answer: tuple[int, dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        status, answer = self.answer
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[str, type[Door]]]:
    class Mine(Door):
        asked: list[dict[str, Any]] = []  # noqa: RUF012
        answer = (200, {"access_token": "x.y.z", "expires_in": 60})

    path = str(tmp_path / "door")
    with socketserver.ThreadingUnixStreamServer(path, Mine) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path, Mine
        server.shutdown()
        thread.join()


def test_an_exchange_is_asked_for_once_and_kept(door: tuple[str, type[Door]]) -> None:
    path, server = door
    exchanger = Exchanger(path)
    with use(user()):
        auth = RequestsAuth(exchanger, "stock", "read")
        for _ in range(2):
            request = auth(httpx.Request("GET", "http://stock/"))
            assert request.headers["authorization"] == "Bearer x.y.z"
            assert CONTEXT_HEADER not in request.headers
        exchanger.exchange("other")
    assert server.asked == [
        {"token": token(), "audience": "stock", "scope": "read"},
        {"token": token(), "audience": "other", "scope": ""},
    ]


def test_a_token_that_is_nearly_over_is_not_kept(door: tuple[str, type[Door]]) -> None:
    path, server = door
    server.answer = (200, {"access_token": "x.y.z", "expires_in": 5})
    exchanger = Exchanger(path)
    with use(user()):
        exchanger.exchange("stock")
        exchanger.exchange("stock")
    assert len(server.asked) == 2


def test_two_users_never_share_an_exchanged_token(door: tuple[str, type[Door]]) -> None:
    path, server = door
    exchanger = Exchanger(path)
    exchanger.exchange("stock", user=user())
    exchanger.exchange("stock", user=user({**CLAIMS, "sub": "bob", "sub_id": None}))
    assert len({one["token"] for one in server.asked}) == 2


def test_a_refused_exchange_says_why_and_sends_nothing(door: tuple[str, type[Door]]) -> None:
    path, server = door
    server.answer = (400, {"error": "invalid_target", "error_description": "not granted"})
    with use(user()), pytest.raises(ExchangeFailed, match="not granted") as caught:
        Exchanger(path).exchange("stock")
    assert caught.value.error == "invalid_target"


def test_without_a_user_or_a_door_nothing_is_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIMEN_TOKEN_SOCKET", raising=False)
    with pytest.raises(AccessRefused):
        Exchanger(str(tmp_path / "none")).exchange("stock")
    with use(user()):
        for path in (str(tmp_path / "none"), ""):
            with pytest.raises(ExchangeFailed) as caught:
                Exchanger(path).exchange("stock")
            assert caught.value.error == "unavailable"
            assert token() not in str(caught.value)
