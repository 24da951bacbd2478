"""The user context in what `requests` sends (and anything else with `auth` and `headers`).

    requests.get("http://items.mesh/", auth=ContextAuth())

`requests` itself is not imported: its `auth` is any callable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.sdk.context import CONTEXT_HEADER, current

if TYPE_CHECKING:
    from limen.sdk.exchange import Exchanger

__all__ = ["ContextAuth"]


class ContextAuth:
    """Attaches the user to a request: the context header, or with `audience` an exchanged token.

    The header is for services of the mesh only: the sidecar takes it out of the request and puts in
    what the callee accepts. Without a user nothing is attached, and what the caller wrote there
    himself is taken out.
    """

    def __init__(
        self, exchanger: Exchanger | None = None, audience: str = "", scope: str = ""
    ) -> None:
        if bool(audience) != (exchanger is not None):
            raise ValueError("name an audience and give an exchanger, or neither")
        self._exchanger = exchanger
        self._audience = audience
        self._scope = scope

    def __call__(self, request: Any) -> Any:
        """The same request with the user's headers. Raises as `Exchanger.exchange`."""
        user = current()
        request.headers.pop(CONTEXT_HEADER, None)
        if user is None:
            return request
        if self._exchanger is None:
            request.headers[CONTEXT_HEADER] = user.token
        else:
            found = self._exchanger.exchange(self._audience, self._scope, user)
            request.headers["authorization"] = f"Bearer {found.token}"
        return request
