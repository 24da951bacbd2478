"""The demo itself, as a user runs it, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LIMIT_S = 120
GOAL_S = 60


def run_demo(directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(directory), "LIMEN_DEMO_MARK": str(directory)}
    return subprocess.run(
        [sys.executable, "-m", "limen.cli.main", "demo", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environment,
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
    assert data["passed"] >= 35
    assert data["seconds"] < GOAL_S
    assert processes_with(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
