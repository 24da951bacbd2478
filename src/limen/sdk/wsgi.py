"""The user context in a WSGI application (Flask, Django, Pyramid).

    app.wsgi_app = UserContextMiddleware(app.wsgi_app)

A framework that turns every exception of a handler into 500 has to be told what `AccessRefused`
means: in Flask `@app.errorhandler(AccessRefused)`.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from limen.sdk.context import CONTEXT_HEADER, USER_HEADER, AccessRefused, read_context, use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from limen.sdk.context import UserContext

    App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

__all__ = ["UserContextMiddleware"]

_KEYS = {"HTTP_" + name.upper().replace("-", "_"): name for name in (USER_HEADER, CONTEXT_HEADER)}


class UserContextMiddleware:
    """Sets the user for each request, also while its body is produced."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """One request of WSGI (PEP 3333)."""
        try:
            user = read_context((n, environ[key]) for key, n in _KEYS.items() if key in environ)
            with use(user):
                return _Body(self._app(environ, start_response), user)
        except AccessRefused as refused:
            return _refuse(refused, start_response)


class _Body:
    """The parts of a body, each made with the user set."""

    def __init__(self, parts: Iterable[bytes], user: UserContext | None) -> None:
        self._parts = parts
        self._user = user

    def __iter__(self) -> Iterator[bytes]:
        iterator = iter(self._parts)
        while True:
            with use(self._user):
                try:
                    part = next(iterator)
                except StopIteration:
                    return
            yield part

    def close(self) -> None:
        """PEP 3333: whatever the application wants to be told."""
        if (close := getattr(self._parts, "close", None)) is not None:
            close()


def _refuse(refused: AccessRefused, start_response: Callable[..., Any]) -> list[bytes]:
    body = json.dumps({"error": "access_refused", "reason": refused.reason}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(f"{refused.status} {HTTPStatus(refused.status).phrase}", headers)
    return [body]
