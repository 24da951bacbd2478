"""One corpus through the three places of the decision point: in an application, beside a proxy
(over its socket), as a service on an address. Same engine, same answers."""

from __future__ import annotations

import itertools
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.core.xacml.builders import apply, designator, literal, obligation, policy, rule

from limen.core.policy.xacml.names import RESOURCE
from limen.errors import InvalidInput
from limen.sdk import pdp

if TYPE_CHECKING:
    from limen.sdk.pdp import Duty

ROLE, WARD = designator("role"), designator("ward", must=True)
WARD_OF_RECORD = designator("ward", category=RESOURCE)
XACML = policy(
    "records",
    rule(
        "emergency",
        "Permit",
        "<Condition>"
        + apply("string-is-in", literal("string", "chief"), ROLE)
        + "</Condition>"
        + obligation("urn:limen:obligation:log", "Permit"),
    ),
    rule(
        "ward",
        "Permit",
        "<Condition>"
        + apply(
            "and",
            apply("string-is-in", literal("string", "doctor"), ROLE),
            apply("string-at-least-one-member-of", WARD, WARD_OF_RECORD),
        )
        + "</Condition>",
    ),
    rule("else", "Deny"),
)
REGO = """package records
default allow := false
allow if input.subject.properties.role == "chief"
allow if {
    input.subject.properties.role == "doctor"
    input.subject.properties.ward == input.resource.properties.ward
}
"""
CORPUS = [
    ({"role": role, **({"ward": ward} if ward else {})}, {"ward": record})
    for role, ward, record in itertools.product(
        ("chief", "doctor", "nurse"), ("west", "east", ""), ("west", "east")
    )
]


def parts(subject: dict[str, str], record: dict[str, str]) -> dict[str, Any]:
    return {
        "subject": {"type": "user", "id": "ann", "properties": subject},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "1", "properties": record},
    }


@pytest.mark.parametrize(("suffix", "text"), [("xml", XACML), ("rego", REGO)])
def test_three_places_give_the_same_answers(tmp_path: Path, suffix: str, text: str):
    file = tmp_path / f"p.{suffix}"
    file.write_text(text)
    root = "records/allow" if suffix == "rego" else "records"
    logged: list[Duty] = []
    inside = pdp.load([file], root=root, obligations={"urn:limen:obligation:log": logged.append})
    in_application = [inside.decide(**parts(*case)).permitted for case in CORPUS]
    with ExitStack() as stack:
        answers = [in_application]
        for listen in (f"unix:{tmp_path / 's'}", "127.0.0.1:0"):
            client = stack.enter_context(asking(stack, file, root, listen))
            replies = [client.post("/access/v1/evaluation", json=parts(*c)) for c in CORPUS]
            answers.append([reply.json()["decision"] for reply in replies])
    assert answers[0] == answers[1] == answers[2]
    assert sum(in_application) == 8, "chiefs everywhere, doctors in their own ward"
    assert len(logged) == (6 if suffix == "xml" else 0)


def asking(stack: ExitStack, file: Path, root: str, listen: str) -> httpx.Client:
    limen = Path(sys.executable).parent / "limen"
    process = subprocess.Popen(
        [limen, "pdp", "serve", "--policy", file, "--root", root, "--listen", listen],
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.stdout.close)
    stack.callback(process.wait, 20)
    stack.callback(process.terminate)
    address = process.stdout.readline().split()[1]
    if listen.startswith("unix:"):
        transport = httpx.HTTPTransport(uds=address.removeprefix("unix:"))
        return httpx.Client(transport=transport, base_url="http://pdp", timeout=30)
    return httpx.Client(base_url=address, timeout=30)


def test_application_refuses_where_an_obligation_has_no_handler(tmp_path: Path):
    (tmp_path / "p.xml").write_text(XACML)
    inside = pdp.load([tmp_path])
    found = inside.decide(**parts({"role": "chief"}, {"ward": "west"}))
    assert not found.permitted
    assert "urn:limen:obligation:log" in found.reason


def test_application_is_told_which_attribute_was_missing(tmp_path: Path):
    (tmp_path / "p.xml").write_text(XACML)
    found = pdp.load([tmp_path]).decide(**parts({"role": "doctor"}, {"ward": "west"}))
    assert (found.permitted, found.answer) == (False, "Indeterminate")
    assert "missing: ward" in found.reason


def test_failing_handler_is_not_passed_over(tmp_path: Path):
    (tmp_path / "p.xml").write_text(XACML)

    def fail(duty: Duty) -> None:
        raise OSError(duty.id)

    inside = pdp.load([tmp_path], obligations={"urn:limen:obligation:log": fail})
    with pytest.raises(OSError, match="log"):
        inside.decide(**parts({"role": "chief"}, {"ward": "west"}))


def test_application_gets_every_finding_of_a_bad_policy(tmp_path: Path):
    (tmp_path / "p.rego").write_text("package t\nallow := nosuch(1)\nx := other(1)")
    with pytest.raises(InvalidInput) as caught:
        pdp.load([tmp_path], root="t/allow")
    assert len(caught.value.diagnostics) == 2
