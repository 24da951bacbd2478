"""Simulated proxies for `propagation.py`: bare discovery clients that acknowledge everything.

Runs as a process of its own: reads its orders from standard input as JSON, opens the streams,
prints `ready` when every stream has what it waits for, and acknowledges until its input closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
import uvloop
from envoy.service.discovery.v3 import discovery_pb2

from limen.core.xds import types

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
PER_CHANNEL = 50


class Proxy:
    """One stream. Reads the frame of a response only, so that the client costs little."""

    def __init__(self, channel: grpc.aio.Channel, name: str, wanted: set[str]) -> None:
        self.name = name
        self.wanted = set(wanted)
        self.complete = asyncio.Event()
        self._requests: asyncio.Queue[bytes] = asyncio.Queue()
        self._call = channel.stream_stream(ADS)(self._sending())

    async def _sending(self) -> Any:
        for url in types.ORDER:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=url, resource_names_subscribe=["*"]
            )
            request.node.id = self.name
            yield request.SerializeToString()
        while True:
            yield await self._requests.get()

    async def run(self) -> None:
        """Answer everything."""
        async for data in self._call:
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
            if self.wanted:
                self.wanted -= {r.name for r in response.resources}
                if not self.wanted:
                    self.complete.set()
            answer = discovery_pb2.DeltaDiscoveryRequest(
                type_url=response.type_url, response_nonce=response.nonce
            )
            self._requests.put_nowait(answer.SerializeToString())


def channel_to(orders: dict[str, Any]) -> grpc.aio.Channel:
    """A channel of its own connection: agents do not share one."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if not orders["bundle_pem"]:
        return grpc.aio.insecure_channel(orders["address"], options)
    credentials = grpc.ssl_channel_credentials(
        orders["bundle_pem"].encode(),
        orders["key_pem"].encode(),
        orders["certificate_pem"].encode(),
    )
    return grpc.aio.secure_channel(orders["address"], credentials, options)


async def main() -> None:
    """Open the streams of `instances`, register them first if they are to be."""
    orders = json.loads(sys.stdin.readline())
    proxies: list[Proxy] = []
    tasks = []
    for first in range(0, len(orders["instances"]), PER_CHANNEL):
        channel = channel_to(orders)
        some = orders["instances"][first : first + PER_CHANNEL]
        register = channel.unary_unary("/limen.node.v1.Node/Register")
        messages = [i["register"] for i in some if i["register"]]
        await asyncio.gather(*(register(json.dumps(m).encode(), timeout=120) for m in messages))
        proxies += [Proxy(channel, i["name"], set(i["wanted"])) for i in some]
    tasks = [asyncio.create_task(p.run()) for p in proxies]
    await asyncio.gather(*(p.complete.wait() for p in proxies))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(main())
