"""Options of the whole test run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("limen")
    group.addoption(
        "--agreement-cases",
        type=int,
        default=200,
        metavar="N",
        help="how many random policies are tried in a real Envoy and in our readers (200, twice: "
        "policies and documents), each with about ten requests",
    )
    group.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write the golden files of tests/core/envoy anew instead of comparing",
    )
