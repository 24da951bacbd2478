"""How soon a permission is enforced: commit to last acknowledgement, by number of proxies.

One server process (SQLite, TLS), proxies simulated in two other processes: bare discovery clients
that acknowledge everything. Services of ten instances each; every service may call three others.

- all: a rule for the whole mesh is given, every proxy changes;
- ten: a rule for one service is given, its ten instances change;
- taken: the rule for the whole mesh is withdrawn: everybody's filter chain changes too.

Baseline, in the same run: a bare gRPC server that sends every stream one ready-made message of the
same size and waits for the answers. Medians; `--short` does 100 proxies only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from processes import cpu_s, resident_mb

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
WORKERS = 2
INSTANCES = 10
CALLEES = 3
GOALS = (
    ("all, 1,000 proxies", "ms", 500.0),
    ("ten, 1,000 proxies", "ms", 50.0),
    ("memory a proxy", "KB", 150.0),
)


@contextmanager
def server(root: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """A server of its own; its pid and client file."""
    command = [
        sys.executable,
        "-m",
        "limen.cli.main",
        "server",
        "run",
        "--data",
        str(root / "data"),
    ]
    command += ["--kek", str(root / "kek"), "--api", "127.0.0.1:0", "--node", "127.0.0.1:0"]
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError((root / "server.log").read_text())
        yield process.pid, json.loads((root / "data" / "client.json").read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def connect(client: dict[str, str]) -> httpx.Client:
    """An operator's client."""
    context = ssl.create_default_context(cadata=client["ca_pem"])
    headers = {"authorization": f"Bearer {client['token']}"}
    return httpx.Client(base_url=client["server"], verify=context, headers=headers, timeout=300)


def join(http: httpx.Client, services: list[str]) -> dict[str, Any]:
    """A node that may run `services`: what a worker needs to connect."""
    token = http.post("/v1/tokens", json={"services": services}).raise_for_status().json()["token"]
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr_pem = csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    answer = http.post("/v1/join", json={"token": token, "csr_pem": csr_pem})
    joined = answer.raise_for_status().json()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "address": joined["node_address"],
        "bundle_pem": joined["control_bundle_pem"],
        "certificate_pem": joined["certificate_pem"],
        "key_pem": key_pem.decode(),
    }


@contextmanager
def worker(orders: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """A process of simulated proxies."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "proxies.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(orders) + "\n")
        process.stdin.flush()
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)


def ready(process: subprocess.Popen[str]) -> None:
    """Return when all streams of a worker have what they wait for."""
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise RuntimeError("a worker failed")


def instance(index: int) -> dict[str, Any]:
    """The instance number `index`: its registration, its stream, the resource to wait for."""
    service, number = f"svc-{index // INSTANCES}", str(index % INSTANCES)
    port = 15_006
    return {
        "name": f"default/{service}/{number}",
        "wanted": [f"inbound:{port}"],
        "register": {
            "service": service,
            "namespace": "default",
            "instance": number,
            "address": f"10.0.{index // 200}.{index % 200 + 1}",
            "inbounds": [{"port": port, "service_port": 8080, "protocol": "http"}],
        },
    }


def allow(name: str, target: dict[str, Any], callers: list[str]) -> str:
    """A MeshTrafficPermission, as JSON."""
    identities = [f"spiffe://default.mesh.local/ns/default/sa/{c}" for c in callers]
    rule = {"default": {"allow": [{"spiffeID": {"type": "Exact", "value": i}} for i in identities]}}
    return json.dumps(
        {
            "apiVersion": "kuma.io/v1alpha1",
            "kind": "MeshTrafficPermission",
            "metadata": {"name": name, "labels": {"kuma.io/mesh": "default"}},
            "spec": {"targetRef": target, "rules": [rule]},
        }
    )


def base(services: int) -> list[str]:
    """Every service may be called by the three after it."""
    return [
        allow(
            f"base-{s}",
            {"kind": "Dataplane", "labels": {"app": f"svc-{s}"}},
            [f"svc-{(s + d) % services}" for d in range(1, CALLEES + 1)],
        )
        for s in range(services)
    ]


def apply(http: httpx.Client, *documents: str) -> dict[str, Any]:
    """Apply and wait until it is enforced everywhere."""
    files = [{"name": f"{i}.json", "text": d} for i, d in enumerate(documents)]
    answer = http.post("/v1/apply", json={"files": files, "wait_s": 120})
    result: dict[str, Any] = answer.raise_for_status().json()
    if result["wait"]["missing"]:
        raise RuntimeError(f"not enforced: {result['wait']['missing'][:3]}")
    return result


def committed_s(http: httpx.Client, seq: int) -> tuple[float, int]:
    """When the newest event was committed, and its number."""
    events = http.get("/v1/audit", params={"after": seq}).json()["items"]
    return float(events[-1]["time_s"]), int(events[-1]["seq"])


class Bench:
    """One server with `proxies` proxies."""

    def __init__(self, stack: ExitStack, proxies: int) -> None:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.proxies = proxies
        self.pid, client = stack.enter_context(server(root))
        self.http = stack.enter_context(connect(client))
        self.seq = 0
        services = [f"svc-{s}" for s in range(proxies // INSTANCES)]
        apply(self.http, *base(len(services)))
        empty_mb = resident_mb(self.pid)
        workers = []
        start = time.monotonic()
        for first in range(WORKERS):
            orders = join(self.http, services)
            orders["instances"] = [instance(i) for i in range(first, proxies, WORKERS)]
            workers.append(stack.enter_context(worker(orders)))
        for process in workers:
            ready(process)
        self.connect_s = time.monotonic() - start
        apply(self.http, allow("settle", {"kind": "Mesh"}, ["nobody"]))
        self.memory_kb = (resident_mb(self.pid) - empty_mb) * 1024 / proxies
        self._turn = 0

    def measure(self, kind: str) -> tuple[float, float, int]:
        """Milliseconds from commit to last answer, CPU milliseconds, proxies affected."""
        self._turn += 1
        name = f"measured-{self._turn}"
        target: dict[str, Any] = {"kind": "Mesh"}
        if kind == "ten":
            target = {"kind": "Dataplane", "labels": {"app": "svc-0"}}
        document = allow(name, target, [f"caller-{self._turn}"])
        if kind == "taken":
            apply(self.http, document)
        if self.seq == 0:
            self.seq = max(0, self._last_seq() - 1)
        cpu = cpu_s(self.pid)
        affected = (
            self._take(name) if kind == "taken" else len(apply(self.http, document)["affected"])
        )
        done_s = time.time()
        cpu = cpu_s(self.pid) - cpu
        at_s, self.seq = committed_s(self.http, self.seq)
        if kind != "taken":
            self._take(name)
            self.seq += 1
        return (done_s - at_s) * 1000, cpu * 1000, affected

    def _take(self, name: str) -> int:
        """Withdraw a permission and wait; how many proxies there are."""
        path = f"/v1/resources/MeshTrafficPermission/{name}"
        revision = self.http.delete(path).raise_for_status().json()["revision"]
        answer = self.http.get("/v1/wait", params={"revision": revision, "timeout": 120}).json()
        if answer["missing"]:
            raise RuntimeError(f"not enforced: {answer['missing'][:3]}")
        return int(answer["total"])

    def _last_seq(self) -> int:
        seq = 0
        while items := self.http.get("/v1/audit", params={"after": seq, "limit": 10_000}).json()[
            "items"
        ]:
            seq = int(items[-1]["seq"])
        return seq


def broadcast(proxies: int, rounds: int) -> float:
    """The baseline: median milliseconds."""
    with ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "broadcast.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(process.wait, 20)
        assert process.stdin is not None
        assert process.stdout is not None
        stack.callback(process.stdin.close)
        address = f"127.0.0.1:{process.stdout.readline().strip()}"
        for first in range(WORKERS):
            names = range(first, proxies, WORKERS)
            some = [{"name": str(i), "wanted": ["first"], "register": None} for i in names]
            orders = {"address": address, "bundle_pem": "", "instances": some}
            ready(stack.enter_context(worker(orders)))
        times = []
        for _ in range(rounds):
            process.stdin.write("\n")
            process.stdin.flush()
            times.append(float(process.stdout.readline()))
        return statistics.median(times)


def measure_size(proxies: int, rounds: int) -> dict[str, Any]:
    """All figures for a number of proxies."""
    result: dict[str, Any] = {"proxies": proxies, "baseline_ms": broadcast(proxies, rounds)}
    with ExitStack() as stack:
        bench = Bench(stack, proxies)
        result |= {"connect_s": bench.connect_s, "memory_kb": bench.memory_kb}
        found: dict[str, list[tuple[float, float, int]]] = {"all": [], "ten": [], "taken": []}
        for _ in range(rounds):
            for kind, samples in found.items():
                samples.append(bench.measure(kind))
        for kind, samples in found.items():
            result[kind] = {
                "ms": statistics.median(s[0] for s in samples),
                "worst_ms": max(s[0] for s in samples),
                "cpu_ms": statistics.median(s[1] for s in samples),
                "affected": samples[-1][2],
            }
    return result


def show(result: dict[str, Any]) -> None:
    """Print a size's figures."""
    print(
        f"{result['proxies']} proxies: connected in {result['connect_s']:.1f} s, "
        f"{result['memory_kb']:.0f} KB a proxy, baseline {result['baseline_ms']:.0f} ms"
    )
    for kind in ("all", "ten", "taken"):
        r = result[kind]
        ratio = r["ms"] / result["baseline_ms"]
        print(
            f"  {kind:6} {r['ms']:7.1f} ms (worst {r['worst_ms']:.1f}), CPU {r['cpu_ms']:.0f} ms, "
            f"{r['affected']} affected, {ratio:.2f} x baseline"
        )


def main() -> None:
    """Measure, print, compare with the goals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="100 proxies, 3 rounds")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    sizes, rounds = ((100,), 3) if options.short else ((100, 1000), 9)
    results = [measure_size(size, rounds) for size in sizes]
    for result in results:
        show(result)
    largest = results[-1]
    seen = (largest["all"]["ms"], largest["ten"]["ms"], largest["memory_kb"])
    if not options.short:
        for (name, unit, goal), value in zip(GOALS, seen, strict=True):
            verdict = "reached" if value < goal else "NOT reached"
            print(f"goal {name}: {value:.0f} {unit}, under {goal:.0f} {unit}: {verdict}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
