"""What an operator does to a whole server: back up, restore, a new admin token, check the audit."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import apsw
import pytest
from tests.services.server_harness import anonymous, permission, running
from tests.services.test_server_process import client_of, process, run

from limen.adapters.store_memory import MemoryStore
from limen.cli.audit import parse_head
from limen.cli.client import load_client_file
from limen.errors import Conflict, InvalidInput, NotFound, Unauthenticated, Untrusted

if TYPE_CHECKING:
    from pathlib import Path


def apply(root: Path, *names: str) -> None:
    with client_of(root) as client:
        for name in names:
            files = [{"name": name, "text": permission("a", "b", name)}]
            client.post("/v1/apply", {"files": files})


def change_store(root: Path, statement: str) -> None:
    """As somebody who can write the file: what guards the audit is in the way of mistakes only."""
    connection = apsw.Connection(str(root / "d" / "limen.db"))
    triggers = list(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type='trigger'"))
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(statement)
    for _, text in triggers:
        connection.execute(str(text))
    connection.close()


# --- the admin's token


def test_a_rotated_admin_token_replaces_the_old_one_everywhere(tmp_path: Path) -> None:
    own = tmp_path / "d" / "client.json"
    copy = tmp_path / "copy.json"
    with process(tmp_path):
        copy.write_text(own.read_text())
        copy.chmod(0o600)
        before = load_client_file(copy)
        code, output = run(tmp_path, "server", "rotate-admin", "--config", str(copy))
        assert code == 0
        after = load_client_file(copy)
        assert after.token != before.token
        assert after == load_client_file(own)
        assert before.token not in output
        assert after.token not in output
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert run(tmp_path, "get", "meshes")[0] == 0
        old = tmp_path / "old.json"
        old.write_text(
            json.dumps({"server": after.server, "ca_pem": after.ca_pem, "token": before.token})
        )
        old.chmod(0o600)
        with pytest.raises(Unauthenticated):
            run(tmp_path, "get", "meshes", "--config", str(old))
        with pytest.raises(Unauthenticated):
            run(tmp_path, "server", "rotate-admin", "--config", str(old))
        events = json.loads(run(tmp_path, "get", "audit", "-o", "json")[1])
        assert [(e["actor"], e["verb"]) for e in events if e["verb"] == "rotate"] == [
            ("admin", "rotate")
        ]
        assert after.token not in json.dumps(events)
    with process(tmp_path):
        assert load_client_file(own).token == after.token
        assert run(tmp_path, "get", "meshes")[0] == 0
    assert after.token not in (tmp_path / "log").read_text()


async def test_nobody_rotates_the_token_without_one(tmp_path: Path) -> None:
    async with running(tmp_path) as server, anonymous(server.client) as nobody:
        assert (await nobody.post("/v1/admin/rotate", json={})).status_code == 401
        assert (await server.api.post("/v1/admin/rotate", json={})).status_code == 200
        assert (await server.api.post("/v1/admin/rotate", json={})).status_code == 401


# --- backup and restore


def test_a_restored_backup_is_another_history_with_the_same_content(tmp_path: Path) -> None:
    backup = tmp_path / "kept" / "monday.db"
    with process(tmp_path):
        apply(tmp_path, "p1")
        code, output = run(tmp_path, "server", "backup", str(backup), "--data", str(tmp_path / "d"))
        assert code == 0
        assert str(backup) in output
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        apply(tmp_path, "p2")
        status = json.loads(run(tmp_path, "server", "status", "-o", "json")[1])
        with pytest.raises(Conflict):
            run(tmp_path, "server", "restore", str(backup), "--data", str(tmp_path / "d"))
        with pytest.raises(Conflict):
            run(tmp_path, "server", "backup", str(backup), "--data", str(tmp_path / "d"))
    with pytest.raises(Conflict):  # the old store is still there
        run(tmp_path, "server", "restore", str(backup), "--data", str(tmp_path / "d"))
    for file in (tmp_path / "d").glob("limen.db*"):
        file.rename(tmp_path / file.name)
    code, output = run(tmp_path, "server", "restore", str(backup), "--data", str(tmp_path / "d"))
    assert code == 0
    with process(tmp_path):
        found = json.loads(run(tmp_path, "get", "trafficpermissions", "-o", "json")[1])
        assert [d["metadata"]["name"] for d in found] == ["p1"]
        restored = json.loads(run(tmp_path, "server", "status", "-o", "json")[1])
        assert restored["epoch"] != status["epoch"]
        assert restored["epoch"] in output
        events = json.loads(run(tmp_path, "get", "audit", "-o", "json")[1])
        assert ("operator", "restore", "monday.db") in {
            (e["actor"], e["verb"], e["name"]) for e in events
        }
        assert run(tmp_path, "get", "audit", "--verify")[0] == 0


def test_a_backup_that_was_changed_is_not_restored(tmp_path: Path) -> None:
    with process(tmp_path):
        apply(tmp_path, "p1")
    change_store(tmp_path, "UPDATE audit SET entry = replace(entry, 'admin', 'nobody')")
    backup = tmp_path / "changed.db"
    run(tmp_path, "server", "backup", str(backup), "--data", str(tmp_path / "d"))
    with pytest.raises(Untrusted, match="audit event"):
        run(tmp_path, "server", "restore", str(backup), "--data", str(tmp_path / "new"))
    assert not (tmp_path / "new" / "limen.db").exists()


def test_there_must_be_a_store_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        run(tmp_path, "server", "backup", str(tmp_path / "b"), "--data", str(tmp_path / "d"))


# --- the audit chain


def test_the_chain_is_walked_and_its_head_can_be_kept(tmp_path: Path) -> None:
    with process(tmp_path):
        apply(tmp_path, "p1", "p2")
        first = json.loads(run(tmp_path, "get", "audit", "--verify", "-o", "json")[1])
        status = json.loads(run(tmp_path, "server", "status", "-o", "json")[1])
        assert first["head"] == f"{status['audit_events']}:{status['audit_head']}"
        apply(tmp_path, "p3")
        code, output = run(tmp_path, "get", "audit", "--verify", "--kept", first["head"])
        assert code == 0
        assert f"{first['events'] + 1} events" in output
    change_store(tmp_path, f"DELETE FROM audit WHERE seq >= {first['events']}")  # noqa: S608 - a number
    with process(tmp_path):
        assert run(tmp_path, "get", "audit", "--verify")[0] == 0, "a shorter chain is whole"
        code, output = run(tmp_path, "get", "audit", "--verify", "--kept", first["head"])
        assert code == 1
        assert f"audit event {first['events']} should be the last" in output


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE audit SET entry = replace(entry, 'p2', 'p9')", "was changed"),
        ("DELETE FROM audit WHERE entry LIKE '%p2%'", "is missing"),
    ],
)
def test_a_changed_chain_is_found_at_its_first_bad_event(
    tmp_path: Path, statement: str, said: str
) -> None:
    with process(tmp_path):
        apply(tmp_path, "p1", "p2", "p3")
        events = json.loads(run(tmp_path, "get", "audit", "-o", "json")[1])
        bad = next(e["seq"] for e in events if e["name"] == "p2")
    change_store(tmp_path, statement)
    with process(tmp_path):
        code, output = run(tmp_path, "get", "audit", "--verify")
    assert code == 1
    assert f"audit event {bad} {said}" in output


async def test_the_head_of_the_chain_is_a_metric(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as server:
        await server.apply(permission("a", "b", "p"))
        for _ in range(2):
            text = (await server.api.get("/metrics")).text
            seq, head = await store.audit_head()
            lines = [line for line in text.splitlines() if line.startswith("limen_audit_head{")]
            assert lines == [f'limen_audit_head{{hash="{head}"}} {float(seq)}']
            await server.apply(permission("a", "c", "p"))


@pytest.mark.parametrize("text", ["", "7", "7:abc", f"-1:{'0' * 64}", f"1:{'G' * 64}"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_head(text)


def test_only_audit_is_verified(tmp_path: Path) -> None:
    assert run(tmp_path, "get", "meshes", "--verify")[0] == 2
