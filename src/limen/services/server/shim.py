"""Stands in for `core.compiler.check` until it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.snapshot import Snapshot


def check(snapshot: Snapshot) -> tuple[Diagnostic, ...]:
    """Finds nothing."""
    del snapshot
    return ()
