"""Decisions per second and core of the policy engines, in process and behind Envoy; medians.

    python bench/pdp.py [--rounds 7] [--json FILE]

A policy of a set allows one role to read one resource, with a condition over a bag; the request
concerns one policy in the middle. `indexed` and `all` are the same policies with and without the
index by target. Requests are values: reading documents is measured apart. A Rego policy of N has N
such rules, and the request goes in as JSON. AuthzForce, where Java and Maven are, judges the same
XACML policies and request on one core. Behind Envoy: one connection for the latency, 32 for
the rate, beside the same Envoy without a decision; all on this machine's cores.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pdp_authzforce import measure_authzforce
from pdp_envoy import measure_envoy

from limen.core.policy.engine import AccessRequest, Answer
from limen.core.policy.rego.engine import load_rego
from limen.core.policy.rego.source import RegoModule
from limen.core.policy.xacml.access import HTTP
from limen.core.policy.xacml.decision import Decision
from limen.core.policy.xacml.engine import load_policies
from limen.core.policy.xacml.json_request import read_json_request
from limen.core.policy.xacml.names import (
    ACCESS_SUBJECT,
    ACTION,
    ENVIRONMENT,
    NAMESPACE,
    RESOURCE,
    STRING,
    V1,
    V3,
)
from limen.core.policy.xacml.request import Attribute, Attributes, AttributeValue, XacmlRequest
from limen.core.policy.xacml.xml_request import read_xml_request

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
RESOURCE_ID = f"{V1}resource:resource-id"
ROLE = "urn:bench:role"
ACTION_ID = f"{V1}action:action-id"


def designator(category: str, attribute: str) -> str:
    """One attribute, optional."""
    return (
        f'<AttributeDesignator Category="{category}" AttributeId="{attribute}" '
        f'DataType="{STRING}" MustBePresent="false"/>'
    )


def match(category: str, attribute: str, value: str) -> str:
    """A target part: equality of strings."""
    return (
        f'<AnyOf><AllOf><Match MatchId="{V1}function:string-equal">'
        f'<AttributeValue DataType="{STRING}">{value}</AttributeValue>'
        f"{designator(category, attribute)}</Match></AllOf></AnyOf>"
    )


ROLE_OF_SUBJECT = designator(ACCESS_SUBJECT, ROLE)


def policy(number: int, *, http: bool = False) -> str:
    """One small policy; for what a proxy holds, or for a request of values."""
    target = match(RESOURCE, RESOURCE_ID, f"/record-{number}" if http else f"record-{number}")
    role = designator(ENVIRONMENT, f"{HTTP}header:x-user") if http else ROLE_OF_SUBJECT
    verb = "GET" if http else "read"
    return f"""<Policy PolicyId="p{number}" Version="1.0"
      RuleCombiningAlgId="{V3}rule-combining-algorithm:deny-unless-permit">
      <Target>{target}</Target>
      <Rule RuleId="read" Effect="Permit"><Target>{match(ACTION, ACTION_ID, verb)}</Target>
        <Condition><Apply FunctionId="{V1}function:string-is-in">
          <AttributeValue DataType="{STRING}">doctor</AttributeValue>
          {role}
        </Apply></Condition></Rule></Policy>"""


def policy_set(count: int, *, http: bool = False) -> bytes:
    """A set of small policies."""
    inner = "".join(policy(number, http=http) for number in range(count))
    return f"""<PolicySet xmlns="{NAMESPACE}" PolicySetId="root" Version="1.0"
      PolicyCombiningAlgId="{V3}policy-combining-algorithm:deny-overrides">
      <Target/>{inner}</PolicySet>""".encode()


def request(number: int) -> XacmlRequest:
    """A doctor reads record `number`."""

    def one(category: str, attribute: str, *values: str) -> Attributes:
        found = tuple(AttributeValue(value) for value in values)
        return Attributes(category, (Attribute(attribute, found),))

    return XacmlRequest(
        (
            one(ACCESS_SUBJECT, ROLE, "employee", "doctor"),
            one(RESOURCE, RESOURCE_ID, f"record-{number}"),
            one(ACTION, ACTION_ID, "read"),
        )
    )


XML_REQUEST = (
    f"""<Request xmlns="{NAMESPACE}" ReturnPolicyIdList="false" CombinedDecision="false">"""
    + "".join(
        f'<Attributes Category="{category}"><Attribute AttributeId="{name}" '
        f'IncludeInResult="false"><AttributeValue DataType="{STRING}">{value}</AttributeValue>'
        "</Attribute></Attributes>"
        for category, name, value in (
            (ACCESS_SUBJECT, ROLE, "doctor"),
            (RESOURCE, RESOURCE_ID, "record-0"),
            (ACTION, ACTION_ID, "read"),
        )
    )
    + "</Request>"
).encode()
JSON_REQUEST = json.dumps(
    {
        "Request": {
            "AccessSubject": {"Attribute": [{"AttributeId": ROLE, "Value": "doctor"}]},
            "Resource": {"Attribute": [{"AttributeId": RESOURCE_ID, "Value": "record-0"}]},
            "Action": {"Attribute": [{"AttributeId": ACTION_ID, "Value": "read"}]},
        }
    }
).encode()


def per_second(call: Callable[[], object], rounds: int, target_s: float = 0.3) -> float:
    """The median over `rounds` of calls per second."""
    times, count = [], 1
    while True:
        start = time.perf_counter()
        for _ in range(count):
            call()
        if time.perf_counter() - start > target_s / 4:
            break
        count *= 2
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            call()
        times.append(count / (time.perf_counter() - start))
    return statistics.median(times)


def latencies_us(call: Callable[[], object], count: int = 5_000) -> tuple[float, float]:
    """p50 and p99 of single calls."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    times.sort()
    return times[count // 2] * 1e6, times[count * 99 // 100] * 1e6


def rego_policy(count: int, *, http: bool = False) -> str:
    """A policy of `count` rules; for what a proxy holds, or for a request of four parts."""
    resource, role = "input.resource.id", "input.subject.properties.role[_]"
    if http:
        resource, role = "input.parsed_path[0]", 'input.attributes.request.http.headers["x-user"]'
    rules = "".join(
        f'allow if {{\n\t{resource} == "record-{number}"\n\t{role} == "doctor"\n}}\n'
        for number in range(count)
    )
    return f"package envoy.authz\ndefault allow := false\n{rules}"


def measure(rounds: int) -> dict[str, float]:
    """What is measured in process, by name."""
    found: dict[str, float] = {}
    for count in (1, 100, 1_000):
        document = policy_set(count)
        asked = request(count // 2)
        for name, indexed in (("indexed", True), ("all", False)):
            start = time.perf_counter()
            engine = load_policies([document], indexed=indexed)
            found[f"load {count} {name}, s"] = time.perf_counter() - start
            assert engine.evaluate(asked, NOW).results[0].decision is Decision.PERMIT
            call = lambda e=engine, r=asked: e.evaluate(r, NOW)  # noqa: E731 - bound to this round
            found[f"XACML decisions/s {count} {name}"] = per_second(call, rounds)
            if indexed:
                p50, p99 = latencies_us(call)
                found[f"XACML {count}, p50 us"], found[f"XACML {count}, p99 us"] = p50, p99
    for count in (10, 100, 1_000):
        rego = load_rego([RegoModule("p.rego", rego_policy(count))])
        parts = AccessRequest(
            {"properties": {"role": ["employee", "doctor"]}}, {}, {"id": f"record-{count // 2}"}
        )
        assert rego.judge(parts, NOW).answer is Answer.PERMIT
        call = lambda e=rego, r=parts: e.judge(r, NOW)  # noqa: E731 - bound to this round
        found[f"Rego decisions/s {count}"] = per_second(call, rounds)
        found[f"Rego {count}, p50 us"], found[f"Rego {count}, p99 us"] = latencies_us(call)
    found["read XML request/s"] = per_second(lambda: read_xml_request(XML_REQUEST), rounds)
    found["read JSON request/s"] = per_second(lambda: read_json_request(JSON_REQUEST), rounds)
    return found


def beside_us(rounds: int) -> tuple[dict[str, float], str]:
    """AuthzForce on the same policies and requests; or why it was left out."""
    policies = {
        count: (
            policy_set(count),
            [
                (ACCESS_SUBJECT, ROLE, "employee,doctor"),
                (RESOURCE, RESOURCE_ID, f"record-{count // 2}"),
                (ACTION, ACTION_ID, "read"),
            ],
        )
        for count in (1, 100, 1_000)
    }
    return measure_authzforce(policies, rounds)


def behind_envoy(seconds: float) -> dict[str, float]:
    """What is measured through a proxy, by name."""
    policies = {
        "XACML 100": ("xml", policy_set(100, http=True)),
        "Rego 100": ("rego", rego_policy(100, http=True).encode()),
    }
    return measure_envoy(policies, seconds)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--short", action="store_true", help="two rounds")
    options = parser.parse_args()
    found = measure(2 if options.short else options.rounds)
    other, left_out = beside_us(2 if options.short else options.rounds)
    found |= other
    found |= behind_envoy(1 if options.short else 5)
    for name, value in found.items():
        print(f"{name:<48} {value:>12,.3f}" if value < 10 else f"{name:<48} {value:>12,.0f}")
    if left_out:
        print(f"AuthzForce was left out: {left_out}")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
