"""The baseline of `propagation.py`: a bare gRPC server that sends everybody the same bytes.

Opens a plain port and prints it. For every line on standard input it sends all streams one ready
message of about the size of a permission, waits for all answers, and prints the milliseconds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import grpc
import uvloop
from envoy.service.discovery.v3 import discovery_pb2
from proxies import ADS

BODY_BYTES = 1200


class Broadcast(grpc.GenericRpcHandler):
    """Counts answers; knows nothing of what it sends."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[bytes]] = set()
        self.answers = 0
        self.answered = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The one method."""
        if handler_call_details.method == ADS:
            return grpc.stream_stream_rpc_method_handler(self._serve)
        return None

    async def _serve(self, requests: Any, _context: Any) -> Any:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.queues.add(queue)
        reader = asyncio.create_task(self._count(requests))
        try:
            yield message("first")
            while True:
                yield await queue.get()
        finally:
            reader.cancel()
            self.queues.discard(queue)

    async def _count(self, requests: Any) -> None:
        async for _ in requests:
            self.answers += 1
            self.answered.set()

    async def send_all(self) -> float:
        """One message to every stream; seconds until all have answered."""
        self.answers = 0
        data = message("next")
        start = time.perf_counter()
        for queue in self.queues:
            queue.put_nowait(data)
        while self.answers < len(self.queues):
            self.answered.clear()
            await self.answered.wait()
        return time.perf_counter() - start


def message(name: str) -> bytes:
    """A response that no state machine made."""
    response = discovery_pb2.DeltaDiscoveryResponse(type_url="x", nonce="1")
    resource = response.resources.add(name=name, version="1")
    resource.resource.value = b"x" * BODY_BYTES
    return response.SerializeToString()


async def main() -> None:
    """Serve until standard input closes."""
    handler = Broadcast()
    server = grpc.aio.server(
        options=[
            ("grpc.server.max_pending_requests", 100_000),
            ("grpc.server.max_pending_requests_hard_limit", 200_000),
        ]
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(await handler.send_all() * 1000, flush=True)
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
