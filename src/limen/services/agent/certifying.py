"""A workload's certificate: asked for, renewed at half life with jitter, never used expired."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

from limen.core.pki.profile import BACKDATE_S
from limen.errors import LimenError, Untrusted
from limen.services.agent.identity import (
    accept_svid,
    build_request,
    certificate_times,
    make_key,
    sleep_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.services.agent.node_link import NodeLink
    from limen.services.agent.registration import Registration
    from limen.services.agent.workload_api import SvidFeed

RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0
_log = logging.getLogger("limen.agent")


class Certifier:
    """Publishes certificates on `feed`; `renewed` is called after each, `failed` after a failure.

    `subject` says who the workload is at present.
    """

    def __init__(
        self,
        link: NodeLink,
        feed: SvidFeed,
        subject: Callable[[], Registration],
        renewed: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._link = link
        self._feed = feed
        self._subject = subject
        self._renewed = renewed
        self._failed = failed
        self.clock_offset_s: float | None = None
        self.trouble = ""

    async def sign(self) -> None:
        """Get a new certificate and publish it. Raises what the server says, or Untrusted."""
        key = make_key()
        subject = self._subject()
        request = build_request(key, subject.spiffe_id, subject.dns_names)
        asked = {"instance": subject.instance, "csr_pem": request}
        answer = await self._link.call("Sign", asked, timeout_s=subject.request_timeout_s)
        try:
            times = float(answer["not_after_s"]), float(answer["renew_at_s"])
            pem, bundle = str(answer["certificate_pem"]), str(answer["bundle_pem"])
        except (KeyError, TypeError, ValueError) as error:
            raise Untrusted("the server's answer to Sign cannot be read") from error
        self._feed.publish(accept_svid(key, subject.spiffe_id, pem, bundle, times))
        self.clock_offset_s = certificate_times(pem)[0] + BACKDATE_S - time.time()
        self._renewed()

    async def renew_forever(self) -> None:
        """Renew in time; when that fails, again with back-off."""
        delay = RETRY_FIRST_S
        while True:
            await self._wait_until_renewal()
            try:
                await self.sign()
                delay, self.trouble = RETRY_FIRST_S, ""
            except LimenError as error:
                self.trouble = f"no new certificate: {error}"
                _log.warning("%s: %s", self._subject().instance, self.trouble)
                self._failed()
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                delay = min(delay * 2, RETRY_MAX_S)

    async def _wait_until_renewal(self) -> None:
        """Return when the certificate is to be renewed; at once if there is none."""
        svid = self._feed.current
        if svid is None:
            return
        early = random.uniform(0, 0.05) * svid.outage_budget_s  # noqa: S311 - jitter
        await sleep_until(svid.renew_at_s - early)
