"""One request's way to a verdict: the engine, the moment, and what sources have said so far."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from limen.core.model.attribute_source import ClaimsOrigin
from limen.core.policy.sources import Borne
from limen.core.policy.xacml.access import XacmlPolicyEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limen.core.policy.engine import AccessRequest, PolicyEngine, Verdict
    from limen.core.policy.sources import Asking, SourceBook
    from limen.core.policy.xacml.request import XacmlRequest, XacmlResponse

    Labels = Callable[[str], Mapping[str, str] | None]
    """From a SPIFFE ID to the labels of its registration; None: it has none."""


class Judge:
    """Judges by `engine` at one moment. Evaluating again, with more answers, gives no surprise."""

    def __init__(
        self, engine: PolicyEngine, asking: Asking | None = None, labels: Labels | None = None
    ) -> None:
        self.engine = engine
        self._asking = asking
        self._labels = labels
        self._now = dt.datetime.now(dt.UTC)

    def verdict(self, request: AccessRequest) -> Verdict:
        """Raises `AnswersNeeded`."""
        if self._asking is None:
            return self.engine.judge(request, self._now)
        self._asking.borne = self._borne(request)
        return self.engine.judge(request, self._now, self._asking)

    def respond(self, request: XacmlRequest) -> XacmlResponse | None:
        """The response in XACML's own words; None: the policies are not XACML.

        Raises `AnswersNeeded`.
        """
        if not isinstance(self.engine, XacmlPolicyEngine):
            return None
        finder = self.engine.finder(self._asking)
        return self.engine.engine.evaluate(request, self._now, finder)

    def listed(self, part: str, kind: str) -> list[str] | None:
        """Identifiers that sources list; None: none lists such things.

        Raises `AnswersNeeded`, `AttributeUnavailable`.
        """
        return None if self._asking is None else self._asking.listed(part, kind)

    def _borne(self, request: AccessRequest) -> Borne:
        http = request.http
        if http is None:
            return Borne()
        labels = self._labels(http.source) if self._labels and http.source else None
        return Borne(http.claims, labels)


def claims_header(book: SourceBook | None) -> str:
    """Where the sources say that the proxy writes verified claims; empty: nowhere."""
    origins = [source.origin for source in book.sources] if book is not None else []
    return next((o.header for o in origins if isinstance(o, ClaimsOrigin) and o.header), "")
