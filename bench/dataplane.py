"""What a request costs through our generated pair of proxies, beside four baselines.

- direct: the load generator straight to the application;
- by hand: the least mTLS pair one would write (HTTP/2 between, P-256, TLS 1.3, no statistics);
- plain: HTTP/1.1 between, RSA-2048, statistics, JSON log twice, and nothing else of a mesh;
- usual: as other meshes generate it: that, and their filters, metrics and headers, which
  `envoy_pairs.py` lists with their sources;
- ours: the real thing, `limen server`, `limen agent`, two workloads.

A program behind ours and by hand sends what `HTTP_PROXY` makes it send: the absolute form (ours:
its secret, too). In a usual mesh it is redirected and sends the origin form.

Requests per CPU second count both proxies (for direct: the application). Rounds are interleaved,
the figures are medians, the ratios are per round. `--short` takes a second each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import envoy_pairs as pairs
from limen_pair import LimenPair
from processes import Envoy, cpu_s, free_port, generate_load

GOALS = (("ours / by hand", 0.95), ("ours / usual", 1.6))


@dataclass
class Variant:
    """A way from the load generator to the application, and whose CPU counts."""

    name: str
    port: int
    pids: list[int]
    target: str = "/"
    headers: list[str] = field(default_factory=lambda: ["Host: bench"])

    def measure(self, connections: int, seconds: float) -> dict[str, float]:
        """Run the load; requests per CPU second and latencies."""
        before = sum(cpu_s(pid) for pid in self.pids)
        result = generate_load(self.port, connections, seconds, self.target, self.headers)
        cpu = sum(cpu_s(pid) for pid in self.pids) - before
        if result["failures"]:
            raise RuntimeError(f"{self.name}: {result['failures']} requests failed")
        result["per_cpu_s"] = result["requests"] / cpu if cpu else 0.0
        return result


def static_pair(stack: ExitStack, name: str, style: pairs.Style, root: Path, app: int) -> Variant:
    """Start a pair from `envoy_pairs`."""
    target = "http://bench/" if style is pairs.BY_HAND else "/"
    directory = root / name.replace(" ", "-")
    directory.mkdir()
    pairs.write_certificates(directory, rsa_keys=style.rsa)
    inner, outer = free_port(), free_port()
    callee = stack.enter_context(
        Envoy("callee", pairs.callee_side(inner, app, directory, style), directory, inner)
    )
    caller = stack.enter_context(
        Envoy("caller", pairs.caller_side(outer, inner, directory, style), directory, outer)
    )
    return Variant(name, outer, [caller.pid, callee.pid], target)


def our_pair(stack: ExitStack, root: Path, app: int) -> Variant:
    """Start server, agent and two workloads; the caller's proxy port with its secret."""
    pair = stack.enter_context(LimenPair(root / "limen", app))
    headers = ["Host: callee.mesh", f"Proxy-Authorization: {pair.authorization}"]
    return Variant("ours", pair.port, pair.envoy_pids, "http://callee.mesh/", headers)


def median(rows: list[dict[str, float]], key: str) -> float:
    """The median of one figure over the rounds."""
    return statistics.median(row[key] for row in rows)


def run(rounds: int, seconds: float) -> dict[str, object]:
    """All variants, interleaved, for 1 and 32 connections."""
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="limen-bench-") as name, ExitStack() as stack:
        root = Path(name)
        app = free_port()
        server = stack.enter_context(Envoy("app", pairs.backend(app), root, app))
        variants = [
            Variant("direct", app, [server.pid]),
            static_pair(stack, "by hand", pairs.BY_HAND, root, app),
            static_pair(stack, "plain", pairs.PLAIN, root, app),
            static_pair(stack, "usual", pairs.USUAL, root, app),
            our_pair(stack, root, app),
        ]
        for connections in (1, 32):
            rows: dict[str, list[dict[str, float]]] = {v.name: [] for v in variants}
            for variant in variants:
                variant.measure(connections, min(seconds, 1))
            for _ in range(rounds):
                for variant in variants:
                    rows[variant.name].append(variant.measure(connections, seconds))
            report[f"{connections} connections"] = summary(rows)
    return report


def summary(rows: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Medians per variant, and ratios of requests per CPU second round by round."""
    table: dict[str, object] = {
        name: {key: round(median(r, key), 1) for key in ("per_cpu_s", "p50_us", "p99_us")}
        for name, r in rows.items()
    }
    for other in ("by hand", "plain", "usual"):
        ratios = [
            a["per_cpu_s"] / b["per_cpu_s"] for a, b in zip(rows["ours"], rows[other], strict=True)
        ]
        table[f"ours / {other}"] = round(statistics.median(ratios), 3)
    return table


def main() -> None:
    """Print JSON and, per goal, whether it is met at 32 connections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    report = run(rounds=2, seconds=1) if arguments.short else run(rounds=7, seconds=4)
    print(json.dumps(report, indent=2))
    at_32 = report["32 connections"]
    assert isinstance(at_32, dict)
    for ratio, goal in GOALS:
        verdict = "met" if at_32[ratio] >= goal else "not met"
        print(f"goal {ratio} >= {goal}: {at_32[ratio]} ({verdict})")


if __name__ == "__main__":
    main()
