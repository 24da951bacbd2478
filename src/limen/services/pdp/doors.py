"""Which door a request goes through. One function; every door answers or raises `InvalidInput`."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from limen.core.policy.sources import AnswersNeeded
from limen.errors import InvalidInput
from limen.services.pdp import authzen, envoy, search, xacml_rest
from limen.services.pdp.door import DoorReply, json_reply
from limen.services.pdp.judge import Judge, claims_header

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from limen.adapters.attributes.point import InformationPoint
    from limen.core.policy.engine import PolicyEngine
    from limen.services.pdp.door import DoorRequest
    from limen.services.pdp.judge import Labels

    Guard = Callable[[], AbstractContextManager[None]]

Found = TypeVar("Found")


class Doors:
    """The doors of one engine. `address` is the URL under which callers know it.

    `point` finds attributes that requests lack, `labels` those of the caller's registration;
    `guard` bounds an evaluation: a context that ends the process when it takes too long.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        log: Callable[[str], None],
        point: InformationPoint | None = None,
        labels: Labels | None = None,
        guard: Guard = nullcontext,
    ) -> None:
        self.address = ""
        self.engine = engine
        self.log = log
        self.point = point
        self.guard = guard
        self._labels = labels
        self._claims = claims_header(point.book) if point is not None else ""

    def answer(self, request: DoorRequest) -> DoorReply | Awaitable[DoorReply]:
        """The reply to `request`, at once or when sources have answered.

        400 says what is wrong with it. Whoever serves bounds this call, `guard` what comes later.
        """
        if self.point is None:
            return self._answered(Judge(self.engine), request)
        asking = self.point.asking()
        judge = Judge(self.engine, asking, self._labels)
        try:
            return self._answered(judge, request)
        except AnswersNeeded:
            return self.point.decide(asking, partial(self._reply, judge, request))

    async def judged(self, evaluate: Callable[[Judge], Found]) -> Found:
        """What `evaluate` gives when sources have answered."""

        def guarded(judge: Judge) -> Found:
            with self.guard():
                return evaluate(judge)

        if self.point is None:
            return guarded(Judge(self.engine))
        asking = self.point.asking()
        judge = Judge(self.engine, asking, self._labels)
        return await self.point.decide(asking, partial(guarded, judge))

    def _reply(self, judge: Judge, request: DoorRequest) -> DoorReply:
        with self.guard():
            return self._answered(judge, request)

    def _answered(self, judge: Judge, request: DoorRequest) -> DoorReply:
        path = request.path.partition("?")[0]
        if path == envoy.PREFIX or path.startswith(f"{envoy.PREFIX}/"):
            return envoy.check(judge, request, self.log, self._claims)
        try:
            reply = self._standard(request.method, path, judge, request)
        except InvalidInput as error:
            return json_reply({"error": error.message, "code": error.code}, 400)
        identifier = request.headers.get("x-request-id", "")
        if identifier:
            return DoorReply(
                reply.status, reply.body, {**reply.headers, "x-request-id": identifier}
            )
        return reply

    def _standard(self, method: str, path: str, judge: Judge, request: DoorRequest) -> DoorReply:
        book = None if self.point is None else self.point.book
        match method, path:
            case "POST", authzen.EVALUATION:
                return authzen.evaluation(judge, request)
            case "POST", authzen.EVALUATIONS:
                return authzen.evaluations(judge, request)
            case "POST", _ if path.startswith(authzen.SEARCH):
                return search.search(judge, request, path.removeprefix(authzen.SEARCH))
            case "GET", authzen.METADATA:
                return authzen.metadata(self.address, search.searched_parts(book))
            case "GET", "/":
                return xacml_rest.home()
            case "POST", xacml_rest.PDP:
                return xacml_rest.evaluate(judge, request)
            case _:
                return json_reply({"error": f"nothing answers {method} {path}"}, 404)
