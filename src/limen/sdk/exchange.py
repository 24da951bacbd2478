"""Ask the agent to exchange the user's token for one that is meant for another service.

Usually nobody has to: the sidecar does it for a request that carries the context header. This is
for a program that wants the token itself. The agent's door is a Unix socket (`LIMEN_TOKEN_SOCKET`,
set by `limen run`), open to this workload alone; the agent asks the token service with the
workload's identity, and the mesh's policy says what may be exchanged for whom.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.sdk.context import AccessRefused, current

if TYPE_CHECKING:
    from limen.sdk.context import UserContext

__all__ = ["ExchangeFailed", "ExchangedToken", "Exchanger"]

SOCKET_VARIABLE = "LIMEN_TOKEN_SOCKET"
_TIMEOUT_S = 5.0
_SPARE_S = 5.0
_MAX_KEPT = 1024
_MAX_BYTES = 64 * 1024


class ExchangeFailed(Exception):
    """No token came back. `error` is RFC 8693's code, `unavailable` if nobody answered."""

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(f"{error}: {reason}")
        self.error = error


@dataclass(frozen=True, slots=True)
class ExchangedToken:
    """A token for one audience, until `expires_s`."""

    token: str = field(repr=False)
    expires_s: float


class Exchanger:
    """The agent's door, with the tokens that it gave kept until shortly before their end."""

    def __init__(self, path: str = "") -> None:
        self._path = path or os.environ.get(SOCKET_VARIABLE, "")
        self._kept: dict[tuple[str, str, str], ExchangedToken] = {}
        self._lock = threading.Lock()

    def exchange(
        self, audience: str, scope: str = "", user: UserContext | None = None
    ) -> ExchangedToken:
        """A token of the current user (or `user`) for `audience`, with that scope or less.

        Raises AccessRefused (401) without a user, ExchangeFailed if there is no token.
        """
        user = user or current()
        if user is None:
            raise AccessRefused(401, "there is no user whose token could be exchanged")
        key = (user.token, audience, scope)
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and time.time() < kept.expires_s - _SPARE_S:
            return kept
        found = self._ask(user.token, audience, scope)
        with self._lock:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[key] = found
        return found

    def _ask(self, token: str, audience: str, scope: str) -> ExchangedToken:
        body = json.dumps({"token": token, "audience": audience, "scope": scope})
        connection = _UnixConnection(self._path)
        try:
            connection.request("POST", "/exchange", body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = _parse(response.read(_MAX_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise ExchangeFailed("unavailable", f"the agent's door: {error}") from None
        finally:
            connection.close()
        if response.status != 200 or not isinstance(answer.get("access_token"), str):
            error_code = str(answer.get("error", "unavailable"))
            raise ExchangeFailed(error_code, str(answer.get("error_description", "")))
        expires_s = time.time() + float(answer.get("expires_in", 0))
        return ExchangedToken(answer["access_token"], expires_s)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._socket_path = path

    def connect(self) -> None:
        if not self._socket_path:
            raise OSError(f"{SOCKET_VARIABLE} is not set: is this program run by `limen run`?")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._socket_path)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
