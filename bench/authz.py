"""What deciding costs: `python bench/run.py authz [--short]`.

- The pair of proxies with 1, 100 and 1,000 rules (only the last one matches) and with an ES256
  token, cached or cold (more tokens than the cache holds), as ratios to the pair with no rules:
  requests per CPU second of both proxies. Each variant is measured next to the baseline.
- `explain`: decisions in a second on one core, at 100 rules.
- The compiler: 1,000 workloads with 200 policies, cold, and one changed policy that concerns ten.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import envoy_pairs as pairs
from compile import measure_explain, measure_istio
from cryptography.hazmat.primitives.asymmetric import ec
from dataplane import Variant
from limen_pair import LimenPair
from processes import Envoy, free_port
from tests.core.tokens.signing import jwk, sign

ISSUER = "https://login.example.com"
PER_POLICY = 500
"""A policy has no more than 512 rules."""
DISTINCT = 2500
"""More than the 1,000 that a proxy's cache holds."""
TOKENS = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: login, namespace: default}
spec: {jwtRules: [{issuer: "https://login.example.com", jwks: 'KEYS'}]}
"""


def rules(count: int) -> str:
    """ALLOW policies of `count` rules in all, of which the last one matches."""
    people = [f"cluster.local/ns/default/sa/somebody-{n}" for n in range(count - 1)]
    people.append("cluster.local/ns/default/sa/caller")
    parts = [people[at : at + PER_POLICY] for at in range(0, count, PER_POLICY)]
    return "\n---\n".join(json.dumps(policy(n, part)) for n, part in enumerate(parts))


def policy(number: int, people: list[str]) -> dict[str, object]:
    """One ALLOW policy, a rule for each of `people`."""
    to = [{"operation": {"methods": ["GET"], "paths": ["/", "/info*"]}}]
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"many-{number}", "namespace": "default"},
        "spec": {"rules": [{"from": [{"source": {"principals": [p]}}], "to": to} for p in people]},
    }


class Pair:
    """The real pair, whose documents are changed."""

    def __init__(self, stack: ExitStack, root: Path) -> None:
        app = free_port()
        stack.enter_context(Envoy("app", pairs.backend(app), root, app))
        self.limen = stack.enter_context(LimenPair(root / "limen", app))
        self.headers = ["Host: callee.mesh", f"Proxy-Authorization: {self.limen.authorization}"]

    def variant(self, name: str, tokens: list[str]) -> Variant:
        """A way through it; with several tokens they take turns."""
        blocks = ["\n".join([*self.headers, f"Authorization: Bearer {t}"]) for t in tokens]
        headers = ["\n\n".join(blocks)] if tokens else self.headers
        return Variant(name, self.limen.port, self.limen.envoy_pids, "http://callee.mesh/", headers)

    def apply(self, text: str) -> None:
        """Until every proxy has it."""
        self.limen.limen("apply", "-f", "-", "--wait", text=text)

    def delete(self, *what: str) -> None:
        """Take a document back; the next `apply` waits for that too."""
        self.limen.limen("delete", *what)


def tokens(key: ec.EllipticCurvePrivateKey, count: int) -> list[str]:
    """Different tokens, an hour long."""
    ends = int(time.time()) + 3600
    header = {"alg": "ES256", "kid": "1"}
    return [
        sign(header, {"iss": ISSUER, "sub": f"u{n}", "exp": ends}, key, "ES256")
        for n in range(count)
    ]


def ratio(baseline: list[float], found: list[float]) -> float:
    """Of the medians."""
    return round(statistics.median(found) / statistics.median(baseline), 3)


def measure(variant: Variant, rounds: int, seconds: float) -> list[float]:
    """Requests per CPU second, after a warm start."""
    variant.measure(8, min(seconds, 1))
    return [variant.measure(8, seconds)["per_cpu_s"] for _ in range(rounds)]


def proxies(rounds: int, seconds: float) -> dict[str, float]:
    """Each variant as a share of no rules."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="limen-bench-") as name, ExitStack() as stack:
        pair = Pair(stack, Path(name))
        plain = pair.variant("no rules", [])
        baseline = measure(plain, rounds, seconds)
        found["no rules, requests per CPU second"] = round(statistics.median(baseline))
        for count in (1, 100, 1000):
            pair.apply(rules(count))
            found[f"{count} rules"] = ratio(baseline, measure(plain, rounds, seconds))
        for number in range(1000 // PER_POLICY):
            pair.delete("authorizationpolicy", f"many-{number}")
        key = ec.generate_private_key(ec.SECP256R1())
        keys = json.dumps({"keys": [jwk(key, kid="1", alg="ES256")]})
        pair.apply(TOKENS.replace("KEYS", keys))
        made = tokens(key, DISTINCT)
        for how, some in (("cached", made[:1]), ("cold", made)):
            variant = pair.variant(f"ES256 token, {how}", some)
            found[variant.name] = ratio(baseline, measure(variant, rounds, seconds))
    return found


def main() -> None:
    """Print figures, and for each goal whether it is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    short = parser.parse_args().short
    print(json.dumps(proxies(1 if short else 7, 0.7 if short else 4), indent=2))
    size, rounds = (100, 1) if short else (1000, 7)
    many = measure_istio(size, size // 5, rounds)
    ten = measure_istio(size, size // 10, rounds)
    print(f"{size} workloads x {size // 5} policies: {json.dumps(many)}")
    print(f"{size} workloads, one changed policy concerns ten: {json.dumps(ten)}")
    rate = measure_explain(100)
    for what, met in (
        (f"explain {rate:.0f} decisions/s >= 5000", rate >= 5000),
        (f"cold {many['cold ms']} ms < 10000", many["cold ms"] < 10_000),
        (f"change {ten['change ms']} ms < 50", ten["change ms"] < 50),
    ):
        print(f"goal {what}: {'met' if met else 'not met'}")


if __name__ == "__main__":
    main()
