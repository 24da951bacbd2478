"""The demo itself, as a user runs it, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

LIMIT_S = 120
GOAL_S = 60


def marked(directory: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(directory), "LIMEN_DEMO_MARK": str(directory)}


def run_demo(directory: Path, *which: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limen.cli.main", "demo", *which, "-o", "json"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=marked(directory),
        check=False,
    )


def processes_with(mark: str) -> list[str]:
    """Command lines of processes whose environment has `mark`."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if f"LIMEN_DEMO_MARK={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_the_demo_passes_every_check_and_leaves_nothing(tmp_path: Path) -> None:
    done = run_demo(tmp_path)
    assert done.stdout, done.stderr
    data = json.loads(done.stdout)
    assert [c for c in data["checks"] if not c["passed"]] == []
    assert data["failed"] == 0
    assert done.returncode == 0
    assert "an expired certificate" in {c["name"] for c in data["checks"]}
    assert data["passed"] >= 35
    assert data["seconds"] < GOAL_S
    assert processes_with(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_user_travels_with_the_request_and_nothing_else_does(tmp_path: Path) -> None:
    """Opaque token, exchange at the edge and between services, and every cell that is refused."""
    done = run_demo(tmp_path, "user-context")
    assert done.stdout, done.stderr
    data = json.loads(done.stdout)
    assert [c for c in data["checks"] if not c["passed"]] == []
    assert data["failed"] == 0
    assert done.returncode == 0
    names = {c["name"] for c in data["checks"]}
    assert {
        "web app → gateway → orders → stock → archive",
        "archive: through whom",
        "machine → gateway → …",
        "no token",
        "a token of another issuer",
        "a token of the mesh, from outside",
        "archive → stock with the opaque token",
        "archive → stock with a token for orders",
        "archive → stock with the token that orders was given",
        "TLS without a certificate",
        "the first token, a while later",
        "how soon",
        "login:ann for stock, by orders",
    } <= names
    assert processes_with(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_is_told_to_stop_leaves_nothing(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "limen.cli.main", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=marked(tmp_path),
    )
    with demo:
        assert demo.stdout is not None
        first = demo.stdout.readline()
        assert first.startswith("ok "), first
        assert "expected 403, seen 403" in first
        assert len(processes_with(str(tmp_path))) > 5
        demo.send_signal(signal.SIGTERM)
        demo.stdout.read()
    assert demo.returncode == 128 + signal.SIGTERM
    assert processes_with(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
