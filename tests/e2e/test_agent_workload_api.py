"""The Workload API with the published `spiffe` client, and SDS, asked by attested processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from spiffe import WorkloadApiClient
from spiffe.workloadapi.errors import FetchJwtSvidError
from tests.e2e.agent_fake_server import FakeServer
from tests.e2e.agent_harness import Host, application, host

from limen.adapters.peercred import this_process

CLIENT = """
import sys
from spiffe import WorkloadApiClient
with WorkloadApiClient('unix://' + sys.argv[1]) as client:
    print(client.fetch_x509_svid().spiffe_id)
"""


def _own_tree() -> dict[str, int]:
    me = this_process()
    return {"pid": me.pid, "start_ticks": me.start_ticks}


async def _fetch(box: Host) -> tuple[int, str]:
    """What a child of this process is answered."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CLIENT, str(box.paths.workload_socket)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stdout + done.stderr


async def test_spiffe_client_gets_certificate_and_bundles_for_its_own_process_tree() -> None:
    async with FakeServer() as server, host(server.token()) as box, application("a") as app:
        await box.start()
        await box.add("items", app.port, process=_own_tree())
        status, output = await _fetch(box)
        assert (status, output.strip()) == (0, "spiffe://default.mesh.local/ns/default/sa/items")

        def ask() -> None:
            with WorkloadApiClient(f"unix://{box.paths.workload_socket}") as client:
                context = client.fetch_x509_context()
                svid = context.default_svid
                assert svid.leaf.public_key() == svid.private_key.public_key()
                assert len(svid.cert_chain) == 2
                bundles = client.fetch_x509_bundles()
                names = {str(bundle.trust_domain) for bundle in bundles.bundles}
                assert names == {"default.mesh.local"}
                with pytest.raises(FetchJwtSvidError, match="later version"):
                    client.fetch_jwt_svid({"somebody"})

        await asyncio.to_thread(ask)


async def test_renewed_certificate_is_streamed_to_the_client() -> None:
    async with FakeServer() as server, host(server.token()) as box, application("a") as app:
        server.lifetime_s, server.renew_after_s = 60, 1
        await box.start()
        await box.add("items", app.port, process=_own_tree())
        loop = asyncio.get_running_loop()
        serials: asyncio.Queue[int] = asyncio.Queue()

        def watch() -> None:
            with WorkloadApiClient(f"unix://{box.paths.workload_socket}") as client:
                call = client.stream_x509_contexts(
                    lambda c: loop.call_soon_threadsafe(
                        serials.put_nowait, c.default_svid.leaf.serial_number
                    ),
                    lambda error: None,
                )
                finished.wait(20)
                call.cancel()

        finished = threading.Event()
        watching = asyncio.create_task(asyncio.to_thread(watch))
        try:
            async with asyncio.timeout(15):
                found = {await serials.get() for _ in range(3)}
        finally:
            finished.set()
            await watching
        assert len(found) == 3


async def test_process_outside_every_workload_is_refused() -> None:
    async with FakeServer() as server, host(server.token()) as box, application("a") as app:
        await box.start()
        sleeper = await asyncio.create_subprocess_exec("sleep", "60")
        try:
            stat = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()
            tree = {"pid": sleeper.pid, "start_ticks": int(stat[19])}
            await box.add("items", app.port, process=tree)
            status, output = await _fetch(box)
            assert status != 0
            assert "not a workload" in output
        finally:
            sleeper.kill()
            await sleeper.wait()
        async with asyncio.timeout(10):
            while (await box.ask("status"))["workloads"]:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.02)


async def test_two_workloads_of_one_user_without_processes_are_not_told_apart() -> None:
    async with FakeServer() as server, host(server.token()) as box, application("a") as app:
        await box.start()
        await box.add("items", app.port)
        assert (await _fetch(box))[0] == 0
        await box.add("users", app.port)
        status, output = await _fetch(box)
        assert status != 0
        assert "not a workload" in output


async def test_call_without_the_security_header_is_invalid() -> None:
    async with FakeServer() as server, host(server.token()) as box, application("a") as app:
        await box.start()
        await box.add("items", app.port, process=_own_tree())
        async with grpc.aio.insecure_channel(f"unix:{box.paths.workload_socket}") as channel:
            call = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")(b"")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_sds_gives_spires_names_to_own_envoys_and_nothing_else() -> None:
    async with FakeServer() as server, host(server.token()) as box, application("a") as app:
        await box.start()
        await box.add("items", app.port, process=_own_tree())
        async with grpc.aio.insecure_channel(f"unix:{box.paths.workload_socket}") as channel:
            service = "/envoy.service.secret.v3.SecretDiscoveryService/"
            fetch = channel.unary_unary(
                service + "FetchSecrets",
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )
            wanted = ["default", "ROOTCA", "spiffe://default.mesh.local", "svid", "other"]
            answer = await fetch(discovery_pb2.DiscoveryRequest(resource_names=wanted))
            names = [secret_pb2.Secret.FromString(r.value).name for r in answer.resources]
            assert names == wanted[:3]
            stream = channel.stream_stream(
                service + "StreamSecrets",
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )()
            await stream.write(discovery_pb2.DiscoveryRequest(resource_names=["default"]))
            first = await stream.read()
            secret = secret_pb2.Secret.FromString(first.resources[0].value)
            assert secret.tls_certificate.private_key.inline_bytes
            stream.cancel()


async def test_foreign_user_is_refused_by_the_control_socket() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    async with FakeServer() as server, host(server.token()) as box:
        await box.start()
        box.root.chmod(0o711)
        box.paths.control_socket.chmod(0o666)  # the file's mode is not what protects it
        code = (  # becomes the other user itself: `user=` would fork this process, with gRPC in it
            "import os,socket,sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
            "s=socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect(sys.argv[1]);"
            "print(s.makefile().readline())"
        )
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-I", "-c", code, str(box.paths.control_socket)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert '"Forbidden"' in done.stdout, done
