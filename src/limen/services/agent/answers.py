"""Errors as answers of the control socket, and back. Standard library only: the CLI reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LimenError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Untrusted,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS: dict[str, type[LimenError]] = {
    kind.__name__: kind
    for kind in (
        InvalidInput,
        Untrusted,
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        Unavailable,
        LimenError,
    )
}


def to_answer(error: LimenError) -> dict[str, Any]:
    """An error as a control answer."""
    kind = next(k for k in type(error).__mro__ if k.__name__ in KINDS).__name__
    return {
        "ok": False,
        "kind": kind,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
    }


def raise_answer(answer: Mapping[str, Any]) -> None:
    """Raise the error that a control answer holds, if it holds one."""
    if not answer.get("ok"):
        kind = KINDS.get(str(answer.get("kind")), LimenError)
        raise kind(
            str(answer.get("message", "the agent failed")),
            code=str(answer.get("code", kind.code)),
            hint=str(answer.get("hint", "")),
        )
