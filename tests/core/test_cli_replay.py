"""`limen replay`: rows as they come, however long the log is; which lines are asked."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from limen.cli.replay import replay

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

LINE = {
    "edge": "inbound",
    "callee": "default/items",
    "peer": "spiffe://default.mesh.local/ns/default/sa/web",
    "peer_address": "192.0.2.7:4711",
    "port": 20000,
    "method": "GET",
    "authority": "items.mesh",
    "path": "/info",
    "status": 200,
    "details": "via_upstream",
    "request_id": "id-1",
}
CANDIDATE = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: items}
spec:
  selector: {matchLabels: {app: items}}
  rules: [{to: [{operation: {methods: [GET]}}]}]
"""


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    file = tmp_path / "candidate.yaml"
    file.write_text(CANDIDATE)
    return file


def log(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps({**LINE, **line}) + "\n" for line in lines))
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(replay, [str(a) for a in args], catch_exceptions=False)


def test_every_format_says_the_same(tmp_path: Path, candidate: Path) -> None:
    unasked = {"details": "overload", "flags": "OM"}
    lines = log(tmp_path / "a.jsonl", {}, {"method": "POST"}, unasked)
    found = [run("--log", lines, "-f", candidate, "-o", o) for o in ("json", "yaml", "table")]
    assert [f.exit_code for f in found] == [1, 1, 1]
    as_json, as_yaml = json.loads(found[0].output), yaml.safe_load(found[1].output)
    assert as_json == as_yaml
    assert (as_json["same"], as_json["changed"], as_json["undecidable"]) == (1, 1, 1)
    assert [r["line"] for r in as_json["requests"]] == [2, 3]
    assert "1 same, 1 changed, 1 undecidable" in found[2].output
    same = log(tmp_path / "b.jsonl", {})
    found = [run("--log", same, "-f", candidate, "-o", o) for o in ("json", "yaml")]
    assert [f.exit_code for f in found] == [0, 0]
    assert json.loads(found[0].output) == yaml.safe_load(found[1].output)


def test_only_lines_of_the_mesh_are_asked(tmp_path: Path, candidate: Path) -> None:
    lines = log(tmp_path / "a.jsonl", {"mesh": "other"}, {"mesh": "default"}, {})
    found = run("--log", lines, "-f", candidate, "--mesh", "default", "-o", "json")
    assert json.loads(found.output)["same"] == 2


def test_without_any_policies_it_is_wrong_use(tmp_path: Path) -> None:
    found = run("--log", log(tmp_path / "a.jsonl", {}))
    assert (found.exit_code, "--server" in found.output) == (2, True)


def test_memory_does_not_grow_with_the_log(tmp_path: Path, candidate: Path) -> None:
    """Also where each line is a row: nothing is held until the end."""
    program = (
        "import sys\n"
        "from limen.cli.replay import replay\n"
        "try: replay(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "said = open('/proc/self/status').read()\n"
        "print(said.split('VmHWM:')[1].split()[0], file=sys.stderr)\n"
    )
    for output in ("json", "table"):
        peaks = []
        for count in (600, 4_000):
            lines = tmp_path / f"{count}.jsonl"
            lines.write_text((json.dumps({**LINE, "method": "POST"}) + "\n") * count)
            with (tmp_path / "out").open("w+") as out:
                done = subprocess.run(
                    [sys.executable, "-c", program, "--log", lines, "-f", candidate, "-o", output],
                    stdout=out, stderr=subprocess.PIPE, check=True, text=True,
                )  # fmt: skip
                out.seek(0)
                assert str(count) in out.read()
            peaks.append(int(done.stderr.splitlines()[-1]))
        assert peaks[1] - peaks[0] < 2 * 1024, peaks  # kB; the rows alone would be 5 MB
