"""Which door a request goes through. One function; every door answers or raises `InvalidInput`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.errors import InvalidInput
from limen.services.pdp import authzen, envoy, xacml_rest
from limen.services.pdp.door import DoorReply, json_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.core.policy.engine import PolicyEngine
    from limen.services.pdp.door import DoorRequest


class Doors:
    """The doors of one engine. `address` is the URL under which callers know it."""

    def __init__(self, engine: PolicyEngine, log: Callable[[str], None]) -> None:
        self.address = ""
        self._engine = engine
        self._log = log

    def answer(self, request: DoorRequest) -> DoorReply:
        """The reply to `request`: 400 says what is wrong with it."""
        path = request.path.partition("?")[0]
        if path == envoy.PREFIX or path.startswith(f"{envoy.PREFIX}/"):
            return envoy.check(self._engine, request, self._log)
        try:
            reply = self._standard(request.method, path, request)
        except InvalidInput as error:
            return json_reply({"error": error.message, "code": error.code}, 400)
        identifier = request.headers.get("x-request-id", "")
        if identifier:
            return DoorReply(
                reply.status, reply.body, {**reply.headers, "x-request-id": identifier}
            )
        return reply

    def _standard(self, method: str, path: str, request: DoorRequest) -> DoorReply:
        match method, path:
            case "POST", authzen.EVALUATION:
                return authzen.evaluation(self._engine, request)
            case "POST", authzen.EVALUATIONS:
                return authzen.evaluations(self._engine, request)
            case "GET", authzen.METADATA:
                return authzen.metadata(self.address)
            case "GET", "/":
                return xacml_rest.home()
            case "POST", xacml_rest.PDP:
                if not isinstance(self._engine, XacmlPolicyEngine):
                    return json_reply({"error": "the policies are not XACML"}, 404)
                return xacml_rest.evaluate(self._engine.engine, request)
            case _:
                return json_reply({"error": f"nothing answers {method} {path}"}, 404)
