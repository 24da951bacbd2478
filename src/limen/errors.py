"""Every exception that Limen raises on purpose.

    LimenError
    ├── InvalidInput        the caller's value or document is wrong; carries diagnostics   HTTP 400
    ├── Untrusted           a credential, signature or peer does not convince
    │   ├── Unauthenticated who this is could not be established                           HTTP 401
    │   └── Forbidden       known, and not allowed to do this                              HTTP 403
    ├── NotFound            the thing named does not exist                                 HTTP 404
    ├── Conflict            somebody else was first; read again and retry                  HTTP 409
    └── Unavailable         a part that is needed cannot be reached or written             HTTP 503

A denial of a request in the mesh is not an exception: it is a `Decision` (core/policy). A bad
document is a list of `Diagnostic`. Each error has a stable `code` and says what to do (`hint`).
Messages never contain secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.model.diagnostic import Diagnostic


class LimenError(Exception):
    """Root of the tree. `code` is stable, `hint` says what to do next."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidInput(LimenError):
    """A value or document from outside is wrong. `diagnostics` lists every finding, all at once."""

    code = "invalid-input"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        diagnostics: Sequence[Diagnostic] = (),
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.diagnostics = tuple(diagnostics)


class Untrusted(LimenError):
    """A credential, a signature or a peer does not convince."""

    code = "untrusted"


class Unauthenticated(Untrusted):
    """Who calls could not be established."""

    code = "unauthenticated"


class Forbidden(Untrusted):
    """The caller is known and may not do this."""

    code = "forbidden"


class NotFound(LimenError):
    """The thing named does not exist."""

    code = "not-found"


class Conflict(LimenError):
    """Somebody else changed it first, or the name is taken."""

    code = "conflict"


class Unavailable(LimenError):
    """A part that is needed cannot be reached, or the disk is full or locked."""

    code = "unavailable"
