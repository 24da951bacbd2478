"""Every code that the sources use is explained, and every explained code is used."""

from __future__ import annotations

import ast
from pathlib import Path

from limen.cli.xacml_reference import page
from limen.core.policy.xacml.codes import CODES

SOURCES = Path(__file__).parents[3] / "src/limen/core/policy/xacml"
CALLS = {"fault": 1, "_invalid": 1, "PolicyFault": 0, "_warning": 0}


def used_codes() -> set[str]:
    found: set[str] = set()
    for source in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            arguments = [*node.args[CALLS[name] : CALLS[name] + 1]] if name in CALLS else []
            arguments += [k.value for k in node.keywords if k.arg == "code"]
            found |= {
                a.value.removeprefix("xacml-")
                for a in arguments
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            }
    return found


def test_codes_are_explained_and_used():
    assert used_codes() == set(CODES)


def test_page_is_what_the_code_says():
    found = Path(__file__).parents[3] / "docs/reference/xacml.md"
    assert found.read_text(encoding="utf-8") == page(), "stale: run `make docs`"
