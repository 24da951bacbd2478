"""The stored description of the API is the present one."""

from __future__ import annotations

from pathlib import Path

from limen.services.server.api.describe import FILE, description

STORED = Path(__file__).parents[2] / "docs" / "reference" / "api" / FILE


def test_the_stored_description_is_fresh() -> None:
    assert STORED.read_text(encoding="utf-8") == description(), (
        "run: python -m limen.services.server.api.describe docs/reference/api"
    )
