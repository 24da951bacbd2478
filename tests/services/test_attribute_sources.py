"""The information point against real files, databases and servers: honest, slow, huge and lying."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from tests.services.jwks_provider import make_authority, server_context

from limen.adapters.attributes.places import Places
from limen.adapters.attributes.point import InformationPoint
from limen.adapters.attributes.threads import MAX_THREADS
from limen.core.model.attribute_source import (
    AttributeName,
    AttributeSource,
    FileOrigin,
    GivenAttribute,
    HttpOrigin,
    SourceParameter,
    SqliteOrigin,
)
from limen.core.policy.sources import Answer, Question, SourceBook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

USER = SourceParameter("user", AttributeName("subject", "id"))


def source(origin: Any, name: str = "s", **more: Any) -> AttributeSource:
    gives = (GivenAttribute(AttributeName("subject", f"{name}-ward"), "ward"),)
    return AttributeSource("n", name, origin, (USER,), gives, **more)


def point(*sources: AttributeSource, base: Path = Path("/"), **more: Any) -> InformationPoint:
    return InformationPoint(SourceBook(sources), Places(base, **more))


async def said(one: AttributeSource, user: str = "ann", base: Path = Path("/")) -> Answer:
    return await point(one, base=base).answer(Question(one, (user,)))


CSV = "doctor,ward,note\nann,west,\nann,east,x\nbob,north,\n"
FORMS = {
    "csv": CSV,
    "json": '[{"doctor": "ann", "ward": ["west", "east"]}, {"doctor": "bob", "ward": "north"}]',
    "yaml": "- {doctor: ann, ward: [west, east]}\n- {doctor: bob, ward: north}\n",
}


@pytest.mark.parametrize("form", FORMS)
async def test_rows_of_a_file_are_those_that_equal_the_parameters(form: str, tmp_path: Path):
    (tmp_path / "rows").write_text(FORMS[form])
    one = source(FileOrigin("rows", form, (("doctor", "user"),)))
    wards: list[Any] = []
    for row in (await said(one, base=tmp_path)).rows:
        wards += row["ward"] if isinstance(row["ward"], list) else [row["ward"]]
    assert wards == ["west", "east"]
    assert (await said(one, "eve", base=tmp_path)).rows == ()


async def test_a_file_that_changed_is_read_again(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text(CSV)
    one = source(FileOrigin("rows.csv", "csv", (("doctor", "user"),)), cache_s=0)
    found = point(one, base=tmp_path)
    assert len((await found.answer(Question(one, ("bob",)))).rows) == 1
    file.write_text("doctor,ward\n")
    assert (await found.answer(Question(one, ("bob",)))).rows == ()


BAD_FILES = {
    "no file": None,
    "no head": "",
    "a head with a name twice": "doctor,doctor\n",
    "a line too long": "doctor,ward\nann,west,x\n",
    "an open quote": 'doctor,ward\nann,"west\n',
    "too large": "doctor,ward\n" + "x,y\n" * 1_100_000,
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES.keys())
async def test_a_file_that_cannot_be_believed_is_a_failure(text: str | None, tmp_path: Path):
    if text is not None:
        (tmp_path / "rows.csv").write_text(text)
    found = await said(source(FileOrigin("rows.csv", "csv", (("doctor", "user"),))), base=tmp_path)
    assert found.failure


async def test_a_pipe_in_place_of_the_file_holds_nothing_up(tmp_path: Path):
    os.mkfifo(tmp_path / "rows.csv")
    found = await said(source(FileOrigin("rows.csv", "csv", (("doctor", "user"),))), base=tmp_path)
    assert "no regular file" in found.failure


async def test_a_file_outside_of_the_directory_for_sources_is_not_opened(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.csv").write_text(CSV)
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "secret.csv")
    for path in ("../secret.csv", str(tmp_path / "secret.csv"), "link.csv"):
        one = source(FileOrigin(path, "csv", (("doctor", "user"),)))
        found = point(one, base=tmp_path / "in", within=tmp_path / "in")
        assert "outside" in (await found.answer(Question(one, ("ann",)))).failure


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "d.db"
    connection = apsw.Connection(str(file))
    connection.execute("create table roster (doctor, ward)")
    rows = [("ann", "west"), ("bob", None), ("x' or '1'='1", "trap")]
    connection.executemany("insert into roster values (?, ?)", rows)
    connection.close()
    return tmp_path


def sqlite(query: str, **more: Any) -> AttributeSource:
    return source(SqliteOrigin("d.db", query), **more)


SELECT = "select ward from roster where doctor = :user"


async def test_parameters_of_a_query_are_bound_and_never_text_of_it(database: Path):
    assert (await said(sqlite(SELECT), base=database)).rows == ({"ward": "west"},)
    assert (await said(sqlite(SELECT), "bob", base=database)).rows == ({"ward": None},)
    assert (await said(sqlite(SELECT), "' or 1=1 --", base=database)).rows == ()
    found = await said(sqlite(SELECT), "x' or '1'='1", base=database)
    assert found.rows == ({"ward": "trap"},)


ENDLESS = "with recursive n(i) as (values(1) union all select i+1 from n) "
BAD_QUERIES = {
    "endless": (f"{ENDLESS} select count(*) from n where i > length(:user)", "in time"),  # noqa: S608 - no injection
    "a gigabyte": (f"{ENDLESS} select :user, i from n", "more than"),  # noqa: S608 - no injection
    "one large value": ("select :user, randomblob(1000000000)", "fails"),
    "binary": ("select :user, x'00ff'", "binary"),
    "a table that is not there": ("select a from nowhere where b = :user", "fails"),
    "a write": ("with x as (select :user) insert into roster select 'a', 'b'", "fails"),
    "another file": ("select :user, readfile('/etc/passwd')", "fails"),
}


@pytest.mark.parametrize(("query", "reason"), BAD_QUERIES.values(), ids=BAD_QUERIES.keys())
async def test_a_query_is_bounded_and_only_reads(query: str, reason: str, database: Path):
    begin = time.monotonic()
    found = await said(sqlite(query, timeout_s=0.3), base=database)
    assert found.failure
    assert reason in found.failure or "did not answer" in found.failure
    assert time.monotonic() - begin < 5


async def test_a_missing_database_is_a_failure_and_is_not_made(tmp_path: Path):
    assert (await said(sqlite(SELECT), base=tmp_path)).failure
    assert not list(tmp_path.iterdir())


@contextlib.asynccontextmanager
async def server(
    handle: Callable[[str, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A server whose `handle` gets each request's head; gives its port."""

    open_: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            await handle(head, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            open_.discard(task)
            writer.close()

    found = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    async with found:
        yield found.sockets[0].getsockname()[1]
        for task in list(open_):
            task.cancel()
        await asyncio.sleep(0)


def respond(body: str, status: str = "200 OK", more: str = "", kind: str = "application/json"):
    text = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n"

    async def handle(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write((text + body).encode())
        await writer.drain()

    return handle


def http(port: int, **more: Any) -> AttributeSource:
    return source(HttpOrigin(f"http://127.0.0.1:{port}/doctors/{{user}}?full=1"), **more)


async def test_a_server_is_asked_with_the_parameter_as_one_segment():
    heads: list[str] = []

    async def handle(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head.splitlines()[0])
        await respond('{"ward": "west"}')(head, writer)

    async with server(handle) as port:
        for user in ("ann", "a/../b?x=1#y", "ä b"):
            assert (await said(http(port), user)).rows == ({"ward": "west"},)
        for user in ("..", ".", ""):
            assert "no segment" in (await said(http(port), user)).failure
    assert heads == [
        "GET /doctors/ann?full=1 HTTP/1.1",
        "GET /doctors/a%2F..%2Fb%3Fx%3D1%23y?full=1 HTTP/1.1",
        "GET /doctors/%C3%A4%20b?full=1 HTTP/1.1",
    ]


async def test_a_server_that_knows_nobody_of_that_name_gives_no_row():
    async with server(respond("", "404 Not Found")) as port:
        assert await said(http(port)) == Answer()


LIES = {
    "not JSON": (respond("<a>"), "not JSON"),
    "another type": (respond("[]", kind="text/html"), "no JSON"),
    "a number": (respond("7"), "neither an object"),
    "a member twice": (respond('{"a": 1, "a": 2}'), "not JSON"),
    "a redirect": (respond("", "302 Found", "location: http://127.0.0.1/\r\n"), "not followed"),
    "an error": (respond("{}", "500 Oops"), "answers 500"),
    "compressed": (respond("{}", more="content-encoding: gzip\r\n"), "compressed"),
    "too many rows": (respond("[" + "{}," * 200 + "{}]"), "more than 100 rows"),
    "deep": (respond("[" * 500 + "]" * 500), "not JSON"),
    "a false length": (respond("{}", more="content-length: 9\r\n"), "not HTTP"),
}


@pytest.mark.parametrize(("handle", "reason"), LIES.values(), ids=LIES.keys())
async def test_a_server_that_lies_is_a_failure(handle: Any, reason: str):
    async with server(handle) as port:
        assert reason in (await said(http(port))).failure


async def test_a_gigabyte_is_cut_off_at_a_megabyte():
    sent = 0

    async def flood(_: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
        while sent < 1 << 30:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with server(flood) as port:
        assert "more than 1048576 bytes" in (await said(http(port, timeout_s=10))).failure
    assert sent < 64 << 20


async def test_a_source_that_hangs_fails_in_time_and_others_answer_meanwhile():
    begun, end = asyncio.Event(), asyncio.Event()

    async def hang(_: str, __: asyncio.StreamWriter) -> None:
        begun.set()
        await end.wait()

    async with server(hang) as slow, server(respond('{"ward": "west"}')) as good:
        hung, other = http(slow, name="h", timeout_s=0.5), http(good, name="o")
        found = point(hung, other)
        waiting = [asyncio.ensure_future(found.answer(Question(hung, (str(i),)))) for i in (1, 2)]
        await begun.wait()
        answer = await found.answer(Question(other, ("ann",)))
        assert answer.rows
        assert not any(task.done() for task in waiting)
        assert [(await task).failure for task in waiting] == ["it did not answer within 0.5 s"] * 2
        assert found.kept(Question(hung, ("1",))) is not None
        end.set()


async def test_one_question_is_asked_once_by_all_who_wait_and_kept_for_its_time():
    count = 0
    now = 0.0

    async def handle(head: str, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await respond('{"ward": "west"}')(head, writer)

    async with server(handle) as port:
        one = http(port, cache_s=30)
        found = InformationPoint(SourceBook([one]), Places(Path("/")), lambda: now)
        asked = Question(one, ("ann",))
        answers = await asyncio.gather(*(found.answer(asked) for _ in range(20)))
        assert (count, len(answers)) == (1, 20)
        now = 29.0
        assert found.kept(asked)
        now = 31.0
        await found.answer(asked)
        assert count == 2


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("limen.adapters.attributes.point.MAX_KEPT", 10)
    (tmp_path / "a.csv").write_text(CSV)
    one = source(FileOrigin("a.csv", "csv", (("doctor", "user"),)))
    found = point(one, base=tmp_path)
    for number in range(50):
        await found.answer(Question(one, (f"u{number}",)))
    assert len(found._kept) == 10
    assert found._bytes == 10 * 200


async def test_private_addresses_are_asked_only_if_their_network_is_named(tmp_path: Path):
    authority = make_authority()
    (tmp_path / "ca.pem").write_text(authority.pem)
    context = server_context(authority, tmp_path, "127.0.0.1")
    async with server(respond('{"ward": "west"}'), context) as port:
        origin = HttpOrigin(f"https://127.0.0.1:{port}/{{user}}", ca_file="ca.pem")
        assert "allowedNetworks" in (await said(source(origin), base=tmp_path)).failure
        allowed = HttpOrigin(origin.url, ca_file="ca.pem", allowed=("127.0.0.0/8",))
        assert (await said(source(allowed), base=tmp_path)).rows
        untrusted = HttpOrigin(origin.url, allowed=("127.0.0.0/8",))
        assert "not trusted" in (await said(source(untrusted), base=tmp_path)).failure


async def test_mutual_tls_shows_our_certificate_and_a_token_is_sent(tmp_path: Path):
    authority = make_authority()
    (tmp_path / "ca.pem").write_text(authority.pem)
    server_context(authority, tmp_path, "client.example")
    (client,) = tmp_path.glob("client*")
    (tmp_path / "token").write_text("s3cret\n")
    context = server_context(authority, tmp_path, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.pem)
    heads: list[str] = []

    async def handle(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        await respond('{"ward": "west"}')(head, writer)

    async with server(handle, context) as port:
        url, network = f"https://127.0.0.1:{port}/{{user}}", ("127.0.0.0/8",)
        plain = HttpOrigin(url, "ca.pem", allowed=network)
        assert (await said(source(plain), base=tmp_path)).failure
        name = client.name
        mutual = HttpOrigin(url, "ca.pem", name, name, "token", network)
        assert (await said(source(mutual), base=tmp_path)).rows
        missing = HttpOrigin(url, "ca.pem", name, name, "none", network)
        found = await said(source(missing), base=tmp_path)
        assert "cannot be read" in found.failure
    assert "authorization: bearer s3cret" in heads[-1].lower()
    assert "s3cret" not in repr(mutual)


async def test_threads_are_few_and_those_that_hang_end_in_time(database: Path):
    query = f"{ENDLESS} select count(*) from n where i > length(:user)"  # noqa: S608 - no injection
    one = sqlite(query, timeout_s=0.3)
    found = point(one, base=database)
    asked = [found.answer(Question(one, (str(i),))) for i in range(12)]
    begin = time.monotonic()
    before = threading.active_count()
    answers = await asyncio.gather(*asked)
    assert all(answer.failure for answer in answers)
    assert (
        threading.active_count() <= before + 2 * MAX_THREADS
    )  # one that ends may still be counted
    assert time.monotonic() - begin < 5


async def test_many_questions_at_once_wait_for_their_turn(database: Path):
    one = sqlite(SELECT, timeout_s=10)
    found = point(one, base=database)
    answers = await asyncio.gather(*(found.answer(Question(one, (str(i),))) for i in range(200)))
    assert not any(answer.failure for answer in answers)
