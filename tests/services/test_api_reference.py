"""The stored description of the API is the present one."""

from __future__ import annotations

import json
from pathlib import Path

from limen.services.server.api.describe import FILE, description
from limen.services.server.api.guard import OPEN

STORED = Path(__file__).parents[2] / "docs" / "reference" / "api" / FILE


def test_the_stored_description_is_fresh() -> None:
    assert STORED.read_text(encoding="utf-8") == description(), (
        "run: python -m limen.services.server.api.describe docs/reference/api"
    )


def test_the_description_says_which_calls_need_a_credential() -> None:
    described = json.loads(description())
    assert described["security"] == [{"bearer": []}]
    free = {
        (method.upper(), path)
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
        if operation.get("security") == []
    }
    assert free == {("GET", "/healthz"), ("GET", "/readyz"), ("POST", "/v1/join")} <= OPEN
