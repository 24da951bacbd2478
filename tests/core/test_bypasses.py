"""The table of known bypasses is true: each has its test, and the test names it."""

from __future__ import annotations

import ast
import time
from functools import cache
from pathlib import Path

import pytest
from tests.bypasses import BYPASSES, Bypass
from tests.core.tokens import corpus

TESTS = Path(__file__).resolve().parents[1]


@cache
def documented(file: str) -> dict[str, str]:
    """Each test of a file with its docstring."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    found = (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name: ast.get_docstring(node) or "" for node in found}


@cache
def refused() -> frozenset[str]:
    return frozenset(c.mechanism for c in corpus.build(time.time()).cases if c.code)


@pytest.mark.parametrize("bypass", BYPASSES, ids=lambda b: b.mechanism)
def test_each_mechanism_has_a_test_against_envoy_that_names_it(bypass: Bypass) -> None:
    assert bypass.test in documented(bypass.file)
    said = documented(bypass.file)[bypass.test]
    assert all(name in said for name in bypass.ids), said
    if bypass.token:
        assert bypass.token in refused()
    assert bypass.file.startswith("e2e/")


def test_no_mechanism_is_listed_twice() -> None:
    assert len({b.mechanism for b in BYPASSES}) == len(BYPASSES) > 45
