"""`limen validate`: what it reads, what it prints, how it exits."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from tests.core.dialects.documents import DATAPLANE, MESH, TRAFFIC_PERMISSION

from limen.cli.files import load_files
from limen.cli.main import main
from limen.core.model.diagnostic import Diagnostic, Severity
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from limen.core.model.snapshot import Snapshot

WARNED = MESH.replace("name: default", "namespace: a\n  name: m")


class Cross:
    """Stands in for the checks of documents together: their own tests are elsewhere."""

    def __init__(self) -> None:
        self.findings: tuple[Diagnostic, ...] = ()
        self.snapshots: list[Snapshot] = []

    def check(self, snapshot: Snapshot) -> tuple[Diagnostic, ...]:
        self.snapshots.append(snapshot)
        return self.findings


@pytest.fixture
def cross(monkeypatch: pytest.MonkeyPatch) -> Cross:
    fake = Cross()
    monkeypatch.setattr("limen.cli.validate.check", fake.check)
    return fake


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["validate", *arguments])
    return int(exit_.value.code or 0)


def test_valid_files_print_nothing_and_exit_0(
    tmp_path: Path, cross: Cross, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(MESH + "---\n" + DATAPLANE)
    assert run("-f", str(tmp_path)) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "1 file, 2 valid resources, 0 errors, 0 warnings\n"
    [snapshot] = cross.snapshots
    assert {key.kind for key in snapshot.resources} == {"kuma.io/Mesh", "kuma.io/Dataplane"}


def test_an_error_is_one_line_and_exit_1(
    tmp_path: Path, cross: Cross, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(MESH.replace("type: builtin", "type: bultin"))
    assert run("-f", str(file)) == 1
    output = capsys.readouterr()
    assert output.out == (
        f"{file}:10: /spec/mtls/backends/0/type: unknown-value: 'bultin' is not one of: builtin "
        "(did you mean builtin?)\n"
    )
    assert output.err == "1 file, 0 valid resources, 1 error, 0 warnings\n"
    assert not cross.snapshots


@pytest.mark.usefixtures("cross")
def test_a_warning_is_exit_0_and_with_strict_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(WARNED)
    assert run("-f", str(file)) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{file}:4: /metadata/namespace: namespace-no-effect: ")
    assert line.endswith("[warning]\n")
    assert run("-f", str(file), "--strict") == 1


def test_findings_about_documents_together_count(
    tmp_path: Path, cross: Cross, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(MESH)
    cross.findings = (Diagnostic(Severity.ERROR, "dangling-mesh", "no mesh", "x.yaml", 3),)
    assert run("-f", str(tmp_path)) == 1
    assert capsys.readouterr().out == "x.yaml:3: /: dangling-mesh: no mesh\n"


@pytest.mark.usefixtures("cross")
def test_json_has_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(WARNED + "---\n" + TRAFFIC_PERMISSION.replace("sources", "sorces"))
    assert run("-f", str(file), "-o", "json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is False
    assert report["files"] == [str(file)]
    assert report["resources"] == [
        {"kind": "kuma.io/Mesh", "mesh": "m", "namespace": "default", "name": "m"}
    ]
    found = [(f["severity"], f["code"], f["line"], f["path"]) for f in report["findings"]]
    assert found == [
        ("warning", "namespace-no-effect", 4, "/metadata/namespace"),
        ("error", "unknown-field", 18, "/spec/sorces"),
    ]
    assert report["findings"][1]["hint"] == "did you mean sources?"


@pytest.mark.usefixtures("cross")
def test_standard_input_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"type: Mesh\nname: M\n")))
    assert run("-f", "-") == 1
    assert capsys.readouterr().out.startswith("<stdin>:2: /name: invalid-name: ")


def test_directories_are_read_sorted_and_recursively(tmp_path: Path) -> None:
    for name in ("b.yaml", "a/z.yml", "a/c.json", "a/README.md", "skip.txt", ".git/x.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "loop").symlink_to(tmp_path)
    loaded = load_files([tmp_path, tmp_path / "b.yaml"])
    assert [os.path.relpath(f, tmp_path) for f in loaded.files] == ["a/c.json", "a/z.yml", "b.yaml"]


def test_one_resource_in_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MESH)
    (tmp_path / "b.yaml").write_text("# again\n" + MESH)
    [finding] = load_files([tmp_path]).diagnostics
    assert finding.code == "duplicate-resource"
    assert finding.file == str(tmp_path / "b.yaml")
    assert finding.line == 2
    assert f"{tmp_path / 'a.yaml'}:1" in finding.message


def test_documents_and_resources_go_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        MESH + "---\n" + MESH.replace("ca-1", "-") + "---\n" + DATAPLANE
    )
    loaded = load_files([tmp_path])
    assert [d.key for d in loaded.documents] == [r.key for r in loaded.resources]
    with pytest.raises(InvalidInput, match="nothing was done") as caught:
        load_files([_bad(tmp_path)]).require_valid()
    assert caught.value.diagnostics


def _bad(directory: Path) -> Path:
    file = directory / "bad.yaml"
    file.write_text("a: [")
    return file


def test_a_path_that_is_missing_is_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-f", str(tmp_path / "none.yaml")) == 2
    message = capsys.readouterr().err
    assert "unreadable: cannot read" in message
    assert "No such file" in message


@pytest.mark.parametrize("name", ["", "x\0y"])
def test_a_path_that_cannot_be_a_path_is_exit_2(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_files([f"/nonexistent{name}"])
    assert caught.value.code == "unreadable"


def test_a_directory_without_documents_is_exit_2(tmp_path: Path) -> None:
    assert run("-f", str(tmp_path)) == 2


def test_without_a_path_it_is_wrong_use() -> None:
    assert run() == 2


@pytest.mark.usefixtures("cross")
def test_an_endless_file_is_refused_at_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-f", "/dev/zero") == 1
    assert "file-too-large" in capsys.readouterr().out


@pytest.mark.usefixtures("cross")
def test_an_empty_file_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    assert run("-f", str(tmp_path)) == 0
    assert "0 valid resources" in capsys.readouterr().err


def test_the_real_checks_judge_a_small_mesh(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{MESH}---\n{DATAPLANE}---\n{TRAFFIC_PERMISSION}")
    assert run("-f", str(tmp_path)) == 0


def test_mutual_tls_that_is_off_is_said_loudly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text('{type: Mesh, name: m, mtls: {enabledBackend: ""}}\n')
    assert run("-f", str(tmp_path)) == 0
    assert "mtls-off" in capsys.readouterr().out
    assert run("-f", str(tmp_path), "--strict") == 1


def test_a_permission_for_a_mesh_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(TRAFFIC_PERMISSION + "mesh: nowhere\n")
    assert run("-f", str(tmp_path)) == 1
    assert f"{tmp_path / 'a.yaml'}:" in (line := capsys.readouterr().out)
    assert "unknown-mesh" in line
