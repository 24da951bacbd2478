"""A load generator: raw HTTP/1.1 over kept connections, closed loop, its own process.

`python bench/loadgen.py HOST PORT CONNECTIONS SECONDS TARGET` sends `GET TARGET` with the headers
on standard input and prints one JSON line: requests, failures, seconds, p50_us, p99_us. Blocks of
headers between empty lines are so many requests, sent in turn. A failure
is any status but 200 or a broken connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import cycle
from typing import TYPE_CHECKING, cast

import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterator


class Caller(asyncio.Protocol):
    """One connection, one request at a time; answers must carry `content-length`."""

    def __init__(self, requests: Iterator[bytes], until: float, done: asyncio.Future[None]) -> None:
        self.requests, self.until, self.done = requests, until, done
        self.times: list[float] = []
        self.failures = 0
        self.buffer = b""
        self.started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self.started = time.perf_counter()
        self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        """Count an answer when it is whole and send the next request."""
        self.buffer += data
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self.buffer[:head_end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.buffer) < head_end + 4 + length:
            return
        self.buffer = b""
        if head.startswith(b"http/1.1 200"):
            self.times.append(time.perf_counter() - self.started)
        else:
            self.failures += 1
        if time.perf_counter() < self.until:
            self._send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of this connection; before time it is a failure."""
        del exc
        if time.perf_counter() < self.until:
            self.failures += 1
        if not self.done.done():
            self.done.set_result(None)


async def run(
    host: str, port: int, connections: int, seconds: float, requests: Iterator[bytes]
) -> None:
    """Drive `connections` callers for `seconds` and print what was seen."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    callers, ends = [], []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        caller = Caller(requests, start + seconds, done)
        await loop.create_connection(lambda c=caller: c, host, port)  # type: ignore[misc]  # one callable per caller
        callers.append(caller)
        ends.append(done)
    await asyncio.gather(*ends)
    elapsed = time.perf_counter() - start
    times = sorted(t for c in callers for t in c.times) or [float("inf")]
    print(
        json.dumps(
            {
                "requests": sum(len(c.times) for c in callers),
                "failures": sum(c.failures for c in callers),
                "seconds": elapsed,
                "p50_us": times[len(times) // 2] * 1e6,
                "p99_us": times[len(times) * 99 // 100] * 1e6,
            }
        )
    )


def main() -> None:
    """Read the arguments; secrets come on standard input, never as arguments."""
    host, port, connections, seconds, target = sys.argv[1:6]
    requests = [
        "\r\n".join([f"GET {target} HTTP/1.1", *block.splitlines(), "", ""]).encode()
        for block in sys.stdin.read().strip("\n").split("\n\n")
    ]
    uvloop.run(run(host, int(port), int(connections), float(seconds), cycle(requests)))


if __name__ == "__main__":
    main()
