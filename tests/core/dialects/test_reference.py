"""The generated pages are fresh, and every code that the sources use is explained."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from limen.cli.reference import pages
from limen.core.dialects import codes

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "src/limen/core/model"
SOURCES = [
    *(ROOT / "src/limen/core/dialects").glob("*.py"),
    MODEL / "names.py",
    MODEL / "authorization.py",
]
COMPILER = ROOT / "src/limen/core/compiler"
CHECKS = [*COMPILER.glob("*check*.py"), *(COMPILER / "edge").glob("*.py")]
CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+")
CALLS = {"error", "warn", "_Refused", "BadScalar"}


@pytest.mark.parametrize("name", sorted(pages()))
def test_page_is_what_the_code_says(name: str) -> None:
    page = ROOT / "docs" / name
    assert page.read_text(encoding="utf-8") == pages()[name], "stale: run `make docs`"


def calls(sources: list[Path]) -> Iterator[tuple[str, ast.Call]]:
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


def used_codes() -> set[str]:
    used: set[str] = set()
    for name, node in calls(SOURCES):
        used |= {v for k in node.keywords if k.arg == "code" for v in literals(k.value)}
        if name in CALLS and node.args:
            used |= literals(node.args[0])
        if name == "Diagnostic":
            used |= literals(node.args[1])
    return used


def literals(node: ast.expr) -> set[str]:
    """Texts of an expression; `f"unknown-{what}"` stands for label and annotation."""
    if isinstance(node, ast.JoinedStr):
        head = str(getattr(node.values[0], "value", ""))
        return {head + what for what in ("label", "annotation")} & set(codes.BY_CODE)
    found = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
    return {text for text in found if isinstance(text, str) and CODE.fullmatch(text)}


def test_every_used_code_is_explained_and_every_explained_code_is_used() -> None:
    indirect = {"not-utf8", "refused-field", "too-many-findings"}
    alone = {code.name for code in codes.CODES if code not in codes.TOGETHER}
    assert used_codes() | indirect == alone


def test_every_code_of_a_check_over_documents_is_explained_with_its_severity() -> None:
    elsewhere = {code.name for code in codes.CODES if code not in codes.TOGETHER}
    used = {
        (code, name in {"warning_at", "warn"})
        for name, node in calls(CHECKS)
        if name in {"error_at", "warning_at", "error", "warn", "say"} and len(node.args) > 1
        for code in literals(node.args[1]) - elsewhere
    }
    assert used == {(code.name, code.warning) for code in codes.TOGETHER}


def test_codes_are_unique_and_mnemonic() -> None:
    assert len(codes.BY_CODE) == len(codes.CODES)
    assert all(CODE.fullmatch(code) for code in codes.BY_CODE)
    assert all(c.meaning.endswith(".") and c.action.endswith(".") for c in codes.CODES)
