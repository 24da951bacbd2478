"""What every verb has in common: examples, forms of output, where the client file is looked for."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from click.testing import CliRunner

from limen.cli.apply import read_texts
from limen.cli.client import load_client_file
from limen.cli.explain import explain
from limen.cli.files import load_files
from limen.cli.main import COMMANDS, limen
from limen.cli.output import print_data
from limen.core.dialects import MAX_BYTES
from limen.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from leaves(f"{name} {child.name}", child)
    else:
        yield name, command


def verbs() -> list[tuple[str, click.Command]]:
    context = click.Context(limen)
    groups = ((name, limen.get_command(context, name)) for name in COMMANDS)
    return [leaf for name, command in groups if command for leaf in leaves(name, command)]


@pytest.mark.parametrize("name", [name for name, _ in verbs()])
def test_help_of_every_verb_has_an_example(name):
    shown = CliRunner().invoke(limen, [*name.split(), "--help"], catch_exceptions=False)
    assert shown.exit_code == 0
    _, heading, examples = shown.output.partition("Example")
    assert heading, shown.output
    assert f"limen {name}" in examples


def test_ordered_mappings_are_printed_as_yaml(capsys):
    shared = OrderedDict(b=[1], a={"c": None})
    print_data({"first": shared, "second": shared}, "yaml")
    text = capsys.readouterr().out
    assert "&" not in text
    assert yaml.safe_load(text) == {"first": dict(shared), "second": dict(shared)}


def client_file(path: Path, server: str) -> None:
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    path.write_text(json.dumps({"server": server, "ca_pem": "x", "token": "y"}))


def test_client_file_of_a_server_of_this_user_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotFound, match=r"\.config/limen/client\.json"):
        load_client_file(None)
    client_file(tmp_path / ".local/share/limen/server/client.json", "https://own:1")
    assert load_client_file(None).server == "https://own:1"
    client_file(tmp_path / ".config/limen/client.json", "https://chosen:1")
    assert load_client_file(None).server == "https://chosen:1"
    with pytest.raises(NotFound, match="elsewhere"):
        load_client_file(tmp_path / "elsewhere")


def test_server_of_explain_needs_no_url(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotFound, match="no client file"):  # it went for the server, not for a URL
        CliRunner().invoke(
            explain, ["--server", "--from", "a", "--to", "b"], catch_exceptions=False
        )


def test_pipe_in_a_directory_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(InvalidInput, match=r"pipe\.yaml is not a file"):
        load_files([tmp_path])


def test_apply_reads_a_pipe_that_is_named_once(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"kind: Mesh\n")
    os.close(writer)
    with os.fdopen(reader):
        assert [text for _, text in read_texts([f"/dev/fd/{reader}"])] == ["kind: Mesh\n"]


def test_apply_refuses_too_large_a_file_before_it_is_sent(tmp_path):
    (tmp_path / "big.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidInput, match="more than") as caught:
        list(read_texts([str(tmp_path)]))
    assert caught.value.code == "file-too-large"
