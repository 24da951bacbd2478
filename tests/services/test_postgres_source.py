"""The information point against a real PostgreSQL, where the machine has one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.services.test_attribute_sources import said, source

from limen.core.model.attribute_source import PostgresOrigin

if TYPE_CHECKING:
    from collections.abc import Iterator

psycopg = pytest.importorskip("psycopg")
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
SELECT = "select ward, since from roster where doctor = :user"


def _user() -> str | None:
    """PostgreSQL does not run as root: whom to start it as; None: as ourselves."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return pwd.getpwnam("nobody").pw_name


@contextmanager
def postgres() -> Iterator[Path]:
    """A server on a socket in a directory of its own."""
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir()
    if user is not None:
        for path in (folder, data):
            shutil.chown(path, user)
    tools = BINARIES[0]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": user}
    initdb = [tools / "initdb", "-D", data, "-A", "trust", "-U", "owner", "-N", "--no-locale"]
    subprocess.run(initdb, check=True, **quiet)
    options = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", folder]
    process = subprocess.Popen([tools / "postgres", "-D", data, *options], **quiet)
    try:
        yield folder
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    if not BINARIES:
        pytest.skip("no PostgreSQL on this machine")
    with postgres() as folder:
        end = time.monotonic() + 60
        while True:
            try:
                connection = psycopg.connect(host=str(folder), user="owner", dbname="postgres")
                break
            except psycopg.OperationalError:
                assert time.monotonic() < end
                time.sleep(0.05)
        with connection:
            connection.execute("create table roster (doctor text, ward text, since int)")
            connection.execute("insert into roster values ('ann','west',3), ('bob',null,null)")
        connection.close()
        yield folder


def asking(folder: Path, query: str, **more: float):
    origin = PostgresOrigin(str(folder), 5432, "postgres", "owner", query)
    return source(origin, **{"timeout_s": 10, **more})


async def test_rows_of_a_query_with_bound_parameters(server: Path):
    one = asking(server, SELECT)
    found = await said(one)
    assert found.rows == ({"ward": "west", "since": 3},), found.failure
    assert (await said(one, "bob")).rows == ({"ward": None, "since": None},)
    for injected in ("' or 1=1 --", "x%s", "%(a)s", "\\'; drop table roster; --"):
        assert (await said(one, injected)).rows == ()
    assert (await said(asking(server, "select 5 % 3 as ward, :user::text as u -- :no"))).rows


BAD = {
    "endless": ("select pg_sleep(60), :user", "did not"),
    "rows without end": ("select generate_series(1, 1000000000) as ward, :user::text", "rows"),
    "a row of a gigabyte": ("select repeat('x', 30000000) as ward, :user::text", "characters"),
    "a write": ("with x as (insert into roster values (:user) returning 1) select 1", "fails"),
    "no such table": ("select a from nowhere where b = :user", "fails"),
}


@pytest.mark.parametrize(("query", "reason"), BAD.values(), ids=BAD.keys())
async def test_a_query_is_bounded_and_only_reads(query: str, reason: str, server: Path):
    begin = time.monotonic()
    found = await said(asking(server, query, timeout_s=1 if "sleep" in query else 10))
    assert reason in found.failure
    assert time.monotonic() - begin < 30


async def test_a_server_that_is_not_there_or_elsewhere_without_authority_fails(tmp_path: Path):
    assert "fails" in (await said(asking(tmp_path, SELECT))).failure
    origin = PostgresOrigin("db.example", 5432, "postgres", "owner", SELECT)
    assert "caFile" in (await said(source(origin))).failure


async def test_the_password_of_a_file_shows_nowhere(tmp_path: Path):
    (tmp_path / "p").write_text("hunter2\n")
    origin = PostgresOrigin(str(tmp_path), 5432, "postgres", "owner", SELECT, "p")
    found = await said(source(origin), base=tmp_path)
    assert found.failure
    assert "hunter2" not in found.failure + repr(origin)
