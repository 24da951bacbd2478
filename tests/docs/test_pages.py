"""Every page of documentation is run: files written, commands typed, output compared.

In a page, a fence ```yaml file=NAME``` is a file; a fence ```console``` holds lines `$ COMMAND`,
each followed by what it prints (`...` stands for anything, on a line or for lines);
`$ COMMAND  # exit 1` states the exit code. A page's blocks share one directory. ```sh``` fences are
not run: they say what needs a second host or root, and why stands beside them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """What is typed, the exit code it must have, and what it prints."""

    text: str
    exit_code: int
    output: str


def commands(block: str) -> list[Command]:
    """The commands of a console block with their outputs."""
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        text, _, code = line.partition("  # exit ")
        found.append(Command(text, int(code or 0), output.rstrip("\n")))
    return found


def as_pattern(output: str) -> re.Pattern[str]:
    """The expected output with `...` as a wildcard."""
    escaped = re.escape(output).replace(re.escape("..."), ".*?")
    return re.compile(escaped + r"\s*", re.DOTALL)


def run(command: Command, directory: Path) -> None:
    """Type one command and compare."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command.text],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": path, "HOME": str(directory)},
        check=False,
    )
    seen = done.stdout + done.stderr
    assert done.returncode == command.exit_code, f"$ {command.text}\n{seen}"
    if command.output:
        assert as_pattern(command.output).fullmatch(seen), (
            f"$ {command.text}\nexpected:\n{command.output}\nseen:\n{seen}"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    for kind, info, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if named := re.search(r"file=(\S+)", info):
            target = tmp_path / named[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(body, encoding="utf-8")
        elif kind == "console":
            for command in commands(body):
                run(command, tmp_path)


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*PAGES, *ROOT.glob("*.md")]
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not target.startswith(("http:", "https:")) and not (page.parent / target).exists()
    ]
    assert broken == []
