"""Blocking work beside the event loop, in threads that may hang without holding up anything."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from limen.adapters.attributes.failure import SourceFailure

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_THREADS = 4
"""Of one source. Where all of them hang, those who wait run out of time; other sources go on."""


class Threads:
    """The threads of one source: daemons, so that one that hangs does not keep the process."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MAX_THREADS)

    async def run(self, work: Callable[[], Any]) -> Any:
        """The result of `work`. Raises what it raises; whoever calls bounds the time."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        thread = threading.Thread(target=self._work, args=(work, loop, done), daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._free.release()
            raise SourceFailure("no thread can be started") from None
        return await done

    def _work(
        self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any]
    ) -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(self._settle, done, result, failure)

    def _settle(
        self, done: asyncio.Future[Any], result: Any, failure: BaseException | None
    ) -> None:
        self._free.release()
        if done.done():
            return
        if failure is not None:
            done.set_exception(failure)
        else:
            done.set_result(result)
