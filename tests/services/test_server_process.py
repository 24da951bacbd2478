"""The process: first start, restart, kill -9, who else may use the data, what the CLI says."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tests.services.server_harness import permission

from limen.cli.client import Client, load_client_file
from limen.cli.main import limen
from limen.errors import LimenError, NotFound, Unavailable, Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def process(root: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "limen.cli.main", "server", "run", "--data", str(root / "d")]
    command += ["--kek", str(root / "kek"), "--api", "127.0.0.1:0", "--node", "127.0.0.1:0", *more]
    with (root / "log").open("a") as log:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().endswith("is up\n"), (root / "log").read_text()
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(20)
        assert child.stdout is not None
        child.stdout.close()


def client_of(root: Path) -> Client:
    return Client(load_client_file(root / "d" / "client.json"))


def run(root: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(
        limen, list(arguments), env={"LIMEN_CONFIG": str(root / "d" / "client.json")}
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_first_start_is_private_and_a_restart_keeps_everything(tmp_path: Path) -> None:
    with process(tmp_path) as child:
        for name, mode in (("d", 0o700), ("d/client.json", 0o600), ("d/server.json", 0o600)):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
        first = json.loads((tmp_path / "d" / "client.json").read_text())
        data = b"".join(p.read_bytes() for p in (tmp_path / "d").glob("limen.db*"))
        assert first["token"].encode() not in data
        with client_of(tmp_path) as client:
            files = [{"name": "p", "text": permission("a", "b", "p")}]
            client.post("/v1/apply", {"files": files})
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    with process(tmp_path):
        second = json.loads((tmp_path / "d" / "client.json").read_text())
        assert (second["token"], second["ca_pem"]) == (first["token"], first["ca_pem"])
        assert run(tmp_path, "get", "trafficpermissions")[1].count("default") == 2
    assert first["token"] not in (tmp_path / "log").read_text()


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with process(tmp_path):
        command = [sys.executable, "-m", "limen.cli.main", "server", "run"]
        command += ["--data", str(tmp_path / "d"), "--kek", str(tmp_path / "kek")]
        second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 5
        assert "already uses" in second.stderr


def test_data_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o755)
    command = [sys.executable, "-m", "limen.cli.main", "server", "run"]
    command += ["--data", str(tmp_path / "d"), "--kek", str(tmp_path / "kek")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "chmod 700" in done.stderr


def test_kill_during_commits_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    answered: list[str] = []
    with process(tmp_path) as child:
        enough = threading.Event()

        def write(worker: int) -> None:
            with client_of(tmp_path) as client:
                for i in range(1000):
                    name = f"w{worker}-{i}"
                    files = [{"name": "p", "text": permission("a", f"b{worker}", name)}]
                    try:
                        client.post("/v1/apply", {"files": files})
                    except LimenError:
                        return
                    answered.append(name)
                    if len(answered) >= 20:
                        enough.set()

        workers = [threading.Thread(target=write, args=(w,)) for w in range(3)]
        for worker in workers:
            worker.start()
        assert enough.wait(60)
        child.kill()
        for worker in workers:
            worker.join(60)
    with process(tmp_path), client_of(tmp_path) as client:
        stored = {r["name"] for r in client.get("/v1/resources/TrafficPermission")["items"]}
        assert set(answered) <= stored
        assert client.get("/v1/audit/verify")["events"] > len(answered)


def test_the_commands_work_against_a_server(tmp_path: Path) -> None:
    with process(tmp_path):
        file = tmp_path / "p.yaml"
        file.write_text(permission("users", "items", "p"))
        assert run(tmp_path, "apply", "-f", str(file), "--dry-run")[1].count("(dry run)") == 1
        code, text = run(tmp_path, "apply", "-f", str(file), "--wait")
        assert (code, "created" in text, "enforced on 0 of 0" in text) == (0, True, True)
        answer = json.loads(run(tmp_path, "apply", "-f", str(file), "-o", "json")[1])
        assert answer["results"][0]["result"] == "unchanged"
        for kind in (
            "proxies",
            "services",
            "nodes",
            "tokens",
            "certificates",
            "audit",
            "mesh",
            "dataplanes",
        ):
            assert run(tmp_path, "get", kind)[0] == 0
            assert isinstance(json.loads(run(tmp_path, "get", kind, "-o", "json")[1]), list)
        token = tmp_path / "token"
        run(tmp_path, "token", "create", "--service", "items", "--output", str(token))
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert token.read_text().startswith("limen1.")
        assert "open" in run(tmp_path, "token", "list")[1]
        pem = tmp_path / "ca.pem"
        pem.write_text(load_client_file(tmp_path / "d" / "client.json").ca_pem)
        assert "sha256" in run(tmp_path, "cert", "show", str(pem))[1]
        assert "p deleted" in run(tmp_path, "delete", "trafficpermission", "p")[1]
        with pytest.raises(NotFound):
            run(tmp_path, "delete", "trafficpermission", "p")
        assert "version" in run(tmp_path, "server", "status")[1]


def test_client_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "client.json"
    with pytest.raises(NotFound):
        load_client_file(path)
    path.write_text(json.dumps({"server": "https://x", "ca_pem": "x", "token": "x"}))
    path.chmod(0o644)
    with pytest.raises(Untrusted, match="chmod 600"):
        load_client_file(path)
    path.chmod(0o600)
    assert "x" not in repr(load_client_file(path).token.replace("x", ""))
    for broken in ("[]", "{", json.dumps({"server": "http://x", "ca_pem": "x", "token": "x"})):
        path.write_text(broken)
        with pytest.raises(LimenError):
            load_client_file(path)


def test_another_server_behind_the_address_is_told_from_none(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with process(tmp_path / "one"), process(tmp_path / "two"):
        mine = json.loads((tmp_path / "one" / "d" / "client.json").read_text())
        theirs = json.loads((tmp_path / "two" / "d" / "client.json").read_text())
        path = tmp_path / "mixed.json"
        path.write_text(json.dumps({**mine, "server": theirs["server"]}))
        path.chmod(0o600)
        with Client(load_client_file(path)) as client, pytest.raises(Untrusted):
            client.get("/v1/status")
        nobody = {**mine, "server": "https://127.0.0.1:1"}
        path.write_text(json.dumps(nobody))
        with Client(load_client_file(path)) as client, pytest.raises(Unavailable):
            client.get("/v1/status")
