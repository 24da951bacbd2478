"""No code of a diagnostic without a test that expects it."""

from __future__ import annotations

import re
from pathlib import Path

from limen.core.dialects import codes

TESTS = Path(__file__).resolve().parents[2]


def test_every_code_is_expected_by_some_test() -> None:
    known = {c.name for group in vars(codes).values() if isinstance(group, tuple)
             for c in group if isinstance(c, codes.Code)}  # fmt: skip
    own = Path(__file__)
    files = [p for p in TESTS.rglob("*") if p.suffix in (".py", ".txt") and p != own]
    text = "\n".join(p.read_text(encoding="utf-8") for p in files)
    found = {name for name in known if re.search(rf"(?<![\w-]){name}(?![\w-])", text)}
    assert len(known) > 90
    assert known - found == set()
