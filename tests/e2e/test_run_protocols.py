"""What programs speak through the real product: server, agent, `limen run`, two Envoys a call."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import time
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.e2e.agent_harness import application, read_message
from tests.e2e.mesh_harness import mesh, serve

from limen.adapters.envoy_process import admin_request
from limen.adapters.runtime_dir import AgentPaths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.mesh_harness import Program

CHUNK = b"0123456789abcdef" * 4096
BIG = 200


async def connect(program: Program, way: str) -> tuple[Any, Any, str]:
    """A connection to a way out, and the header that it wants."""
    if way == "socket":
        path = program.environment["LIMEN_OUTBOUND_SOCKET"]
        reader, writer = await asyncio.open_unix_connection(path)
        return reader, writer, ""
    reader, writer = await program.way.open()
    return reader, writer, f"Proxy-Authorization: {program.way.authorization}\r\n"


async def head_of(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()


async def chunk_of(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:-2]


async def config_of(box: Any, instance: str) -> str:
    paths = AgentPaths(box.paths.runtime, box.paths.state).workload(instance)
    return await admin_request(paths.admin_socket, "GET", "/config_dump", 10)


# --- HTTP/1.1


async def test_only_the_workload_leaves_by_its_way_and_only_into_the_mesh(tmp_path: Path) -> None:
    async with mesh(tmp_path, "web", "items", "secret") as m, application("items") as app:
        await m.run("items", app.port)
        await m.run("secret", app.port)
        web = await m.run("web", app.port)
        await m.allow(("web", "items"))
        way = web.way
        for url in (
            "http://items.mesh/",
            "http://items.default.mesh/x?y=1",
            "http://items.mesh:80/",
        ):
            assert await way.get(url) == (200, b"items"), url
        for bad in ("", "Basic eDp5", way.authorization[:-4] + "AAAA", "Bearer " + "a" * 40):
            status, text = await way.get("http://items.mesh/", bad or "Basic")
            assert (status, b"limen run" in text) == (407, True), bad
        status, text = await way.get("http://example.com/")
        assert status == 403
        assert b"example.com" in text
        for url in ("http://secret.mesh/", "http://127.0.0.1/", "http://items.mesh.example.com/"):
            assert (await way.get(url))[0] == 403, url
        outbound = Path(web.environment["LIMEN_OUTBOUND_SOCKET"])
        assert stat.S_IMODE(outbound.stat().st_mode) == 0o600
        assert stat.S_IMODE(outbound.parent.stat().st_mode) == 0o700
        assert outbound.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("way", ["proxy", "socket"])
async def test_large_bodies_stream_both_ways_at_once(tmp_path: Path, way: str) -> None:
    """The application answers while it is still being sent to: nothing is held back or cut."""
    digest = hashlib.sha256(CHUNK * BIG).hexdigest()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while data := await chunk_of(reader):
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with mesh(tmp_path, "web", "items") as m, serve(echo) as port:
        await m.run("items", port)
        web = await m.run("web", port)
        await m.allow(("web", "items"))
        reader, writer, guard = await connect(web, way)
        with closing(writer):
            head = f"POST http://items.mesh/ HTTP/1.1\r\nHost: items.mesh\r\n{guard}"
            writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            writer.write(b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK))
            assert "200 ok" in await head_of(reader)
            got = hashlib.sha256(await first_bytes(reader, len(CHUNK)))

            async def upload() -> None:
                for _ in range(BIG - 1):
                    writer.write(b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")

            sending = asyncio.create_task(upload())
            async with asyncio.timeout(60):
                while data := await chunk_of(reader):
                    got.update(data)
                await sending
            assert got.hexdigest() == digest


async def first_bytes(reader: asyncio.StreamReader, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await chunk_of(reader)
    assert len(data) == count
    return data


async def test_a_silent_stream_of_twenty_seconds_is_not_cut(tmp_path: Path) -> None:
    """Also: no route has a time limit, no manager an idle limit on streams."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst")
        await writer.drain()
        await asyncio.sleep(20)
        writer.write(b"last")
        await writer.drain()

    async with mesh(tmp_path, "web", "items") as m, serve(slow) as port:
        items = await m.run("items", port)
        web = await m.run("web", port)
        await m.allow(("web", "items"))
        reader, writer, guard = await connect(web, "proxy")
        with closing(writer):
            started = time.monotonic()
            writer.write(f"GET http://items.mesh/ HTTP/1.1\r\nHost: x\r\n{guard}\r\n".encode())
            await head_of(reader)
            assert await reader.readexactly(9) == b"firstlast"
            assert time.monotonic() - started > 19
        for instance in (items.instance, web.instance):
            routes, managers = limits_of(json.loads(await config_of(m.box, instance)))
            assert routes
            assert set(routes) == {"0s"}
            assert managers
            assert set(managers) == {"0s"}


def limits_of(value: Any) -> tuple[list[str], list[str]]:
    """Time limits of routes that lead somewhere, and of streams in connection managers."""
    routes: list[str] = []
    managers: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "cluster" in node.get("route", {}) if isinstance(node.get("route"), dict) else False:
                routes.append(node["route"].get("timeout", "15s (default)"))
            if str(node.get("@type", "")).endswith("v3.HttpConnectionManager"):
                managers.append(node.get("stream_idle_timeout", "5m (default)"))
        for child in node.values() if isinstance(node, dict) else node:
            if isinstance(child, dict | list):
                walk(child)

    walk(value)
    return routes, managers


@pytest.mark.parametrize("way", ["proxy", "socket"])
async def test_websockets_talk_both_ways(tmp_path: Path, way: str) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await head_of(reader)
        assert "upgrade: websocket" in head
        assert "proxy-authorization" not in head
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async with mesh(tmp_path, "web", "chat") as m, serve(echo) as port:
        await m.run("chat", port)
        web = await m.run("web", port)
        await m.allow(("web", "chat"))
        reader, writer, guard = await connect(web, way)
        with closing(writer):
            writer.write(
                f"GET http://chat.mesh/ws HTTP/1.1\r\nHost: chat.mesh\r\n{guard}"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            head = await head_of(reader)
            assert head.startswith("http/1.1 101")
            assert "sec-websocket-accept: s3ppl" in head
            for frame in (
                b"\x81\x85\0\0\0\0hello",
                b"\x82\xfe\xff\xff" + b"\0" * 4 + CHUNK[:65535],
            ):
                writer.write(frame)
                assert await reader.readexactly(len(frame)) == frame


# --- HTTP/2 and gRPC


@asynccontextmanager
async def grpc_application() -> AsyncIterator[int]:
    """`/t.Echo/Once` and `/t.Echo/Talk`, over HTTP/2 in plain text."""

    async def once(request: bytes, _: Any) -> bytes:
        return request

    async def talk(requests: Any, _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()

    handlers = {
        "Once": grpc.unary_unary_rpc_method_handler(once),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
    }
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", 64 << 20),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def channel(
    program: Program, way: str, patch: pytest.MonkeyPatch
) -> AsyncIterator[grpc.aio.Channel]:
    """As a program would open it: by the environment it was given, or by the socket."""
    if way == "socket":
        target = f"unix:{program.environment['LIMEN_OUTBOUND_SOCKET']}"
        options: tuple[Any, ...] = (("grpc.default_authority", "echo.mesh"),)
    else:
        patch.setenv("grpc_proxy", program.environment["grpc_proxy"])
        patch.setenv("no_grpc_proxy", "")
        target, options = "echo.mesh:80", ()
    limits = (("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(target, options=(*options, *limits)) as opened:
        yield opened


@pytest.mark.parametrize("way", ["proxy", "socket"])
@pytest.mark.parametrize("protocol", ["grpc", "http2"])
async def test_grpc_calls_and_streams(
    tmp_path: Path, way: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh(tmp_path, "web", "echo") as m, grpc_application() as port:
        await m.run("echo", port, "--protocol", protocol)
        web = await m.run("web", port)
        await m.allow(("web", "echo"))
        async with channel(web, way, monkeypatch) as opened:
            once = opened.unary_unary("/t.Echo/Once")
            assert await once(b"hello", timeout=15) == b"hello"
            large = os.urandom(8 << 20)
            assert await once(large, timeout=30) == large
            call = opened.stream_stream("/t.Echo/Talk")(timeout=30)
            for word in (b"one", b"two", b"three"):
                await call.write(word)
                assert await call.read() == word.upper()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK


async def test_grpc_without_the_secret_or_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh(tmp_path, "web", "echo") as m, grpc_application() as port:
        await m.run("echo", port, "--protocol", "grpc")
        web = await m.run("web", port)
        async with channel(web, "socket", monkeypatch) as opened:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await opened.unary_unary("/t.Echo/Once")(b"x", timeout=10)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        proxy = web.environment["grpc_proxy"]
        web.environment["grpc_proxy"] = "http://" + proxy.rpartition("@")[2]
        await m.allow(("web", "echo"))
        async with channel(web, "proxy", monkeypatch) as opened:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await opened.unary_unary("/t.Echo/Once")(b"x", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_protocols_that_are_not_there_yet_are_refused_by_name(tmp_path: Path) -> None:
    async with mesh(tmp_path, "db") as m:
        text = await m.refused("db", 5432, "--protocol", "tcp")
        assert "protocol-unsupported" in text
        assert "tcp" in text
        assert "protocol-unsupported" in await m.refused("db", 5432, "--protocol", "mysql")


async def test_health_probes_need_no_identity_and_nothing_else_passes(tmp_path: Path) -> None:
    from limen.services.agent.probing import free_port  # noqa: PLC0415 - only here

    seen: list[str] = []

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line, _ = await read_message(reader)
            seen.append(line)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with mesh(tmp_path, "items") as m, serve(app) as port:
        probe = free_port()
        await m.run("items", port, "--probe-port", str(probe), "--probe-path", "/healthz")
        for request, expected in (
            ("GET /healthz", 200),
            ("HEAD /healthz", 200),
            ("POST /healthz", 404),
            ("GET /", 404),
            ("GET /healthz/../secret", 404),
            ("GET /healthz2", 404),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", probe)
            with closing(writer):
                writer.write(
                    f"{request} HTTP/1.1\r\nHost: probe\r\nContent-Length: 0\r\n\r\n".encode()
                )
                assert int((await head_of(reader)).split()[1]) == expected, request
        assert sorted(seen) == ["GET /healthz HTTP/1.1", "HEAD /healthz HTTP/1.1"]
