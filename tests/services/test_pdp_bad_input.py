"""The bad input that the decision point must survive, each by its name, in bounded time and memory.

Each runs in a process of its own whose address space is limited, as a person would: a refusal is
exit code 2 with a reason, a decision is Indeterminate.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.core.xacml.builders import (
    apply,
    designator,
    is_equal,
    literal,
    match,
    policy,
    policy_set,
    rule,
    target,
)
from tests.services.test_attribute_sources import respond, server

from limen.core.policy.xacml.names import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LIMEN = str(Path(sys.executable).parent / "limen")
MEMORY = 1024**3
TIME_S = 30
REQUEST = {
    "Request": {
        "AccessSubject": {
            "Attribute": [
                {
                    "AttributeId": "urn:oasis:names:tc:xacml:1.0:subject:subject-id",
                    "Value": "ann",
                },
                {"AttributeId": "a", "Value": "a" * 40 + "!"},
            ]
        }
    }
}


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def evaluate(folder: Path, *more: str) -> tuple[int, str]:
    (folder / "request.json").write_text(json.dumps(REQUEST))
    policies = [part for file in sorted(folder.glob("*.xml")) for part in ("--policy", str(file))]
    command = [LIMEN, "pdp", "evaluate", *policies, "--request", str(folder / "request.json")]
    begin = time.monotonic()
    done = subprocess.run(
        [*command, *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_S,
        preexec_fn=limit,
    )
    assert time.monotonic() - begin < TIME_S
    return done.returncode, done.stdout + done.stderr


def when(expression: str) -> str:
    return policy("p", rule("r", "Permit", f"<Condition>{expression}</Condition>"))


def reference(name: str) -> str:
    return f"<PolicySetIdReference>{name}</PolicySetIdReference>"


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "'
    + "x" * 64
    + '">'
    + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">'
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)
REFUSED = {
    "a reference cycle": (
        {"a": policy_set("a", reference("b")), "b": policy_set("b", reference("a"))},
        "xacml-reference-cycle",
    ),
    "an unknown function": ({"p": when(apply("urn:no:such"))}, "xacml-unknown-function"),
    "a wrong arity": ({"p": when(apply("not"))}, "xacml-wrong-arity"),
    "a wrong type": (
        {"p": when(apply("integer-equal", literal("string", "a"), literal("integer", "1")))},
        "xacml-wrong-type",
    ),
    "10 MB of XML": (
        {"p": policy("p", f"<!--{'x' * 10_000_000}-->", rule("r"))},
        "xacml-too-large",
    ),
    "10 MB of rules": (
        {"p": policy("p", *(rule(f"r{i}", "Permit") for i in range(220_000)))},
        "xacml-too-large",
    ),
    "an entity bomb": ({"p": BOMB + policy("p", rule("r"))}, "xacml-doctype"),
    "an external entity": (
        {"p": '<!DOCTYPE a SYSTEM "file:///etc/passwd">' + policy("p", rule("r"))},
        "xacml-doctype",
    ),
    "elements nested deeply": (
        {"p": f'<Policy xmlns="{NAMESPACE}">{"<Description>" * 100_000}'},
        "xacml-not-xml",
    ),
    "expressions nested deeply": (
        {
            "p": policy(
                "p",
                rule(
                    "r",
                    "Permit",
                    "<Condition>"
                    + '<Apply FunctionId="urn:oasis:names:tc:xacml:1.0:function:not">' * 100
                    + literal("boolean", "true")
                    + "</Apply>" * 100
                    + "</Condition>",
                ),
            )
        },
        "xacml-too-deep",
    ),
}


@pytest.mark.parametrize(("files", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_policy_is_refused_at_load(files: dict[str, str], code: str, tmp_path: Path):
    for name, text in files.items():
        (tmp_path / f"{name}.xml").write_text(text)
    exit_code, said = evaluate(tmp_path, *(["--root", "a"] if "a" in files else []))
    assert exit_code == 2
    assert code in said
    assert "Traceback" not in said


CATASTROPHIC = ("(a+)+$", "(a|aa)+$", "(a|a?)+b", "(.*a){20}$")


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_a_catastrophic_regular_expression_decides_or_is_indeterminate(
    pattern: str, tmp_path: Path
):
    matches = match("string-regexp-match", literal("string", pattern), designator("a"))
    (tmp_path / "p.xml").write_text(policy("p", rule("r", "Permit", target(matches))))
    begin = time.monotonic()
    exit_code, said = evaluate(tmp_path)
    assert exit_code == 0
    assert time.monotonic() - begin < 10
    decision = json.loads(said)["Response"][0]["Decision"]
    assert decision in ("NotApplicable", "Indeterminate")


async def hang(_: str, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def flood(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
    for _i in range(16_384):
        writer.write(b"x" * 65_536)
        await writer.drain()


async def trickle(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b"[")
        await writer.drain()
        await asyncio.sleep(0.05)


SOURCES: dict[str, Callable[[str, asyncio.StreamWriter], Awaitable[None]]] = {
    "hangs": hang,
    "trickles": trickle,
    "lies about the type": respond('{"ward": {"not": "a text"}}'),
    "lies about the form": respond("<html>"),
    "answers 1 GB": flood,
}


@pytest.mark.parametrize("handle", SOURCES.values(), ids=SOURCES.keys())
async def test_a_source_that(handle, tmp_path: Path):
    (tmp_path / "p.xml").write_text(policy("p", rule("r", "Permit", target(is_equal("ward", "w")))))
    async with server(handle) as port:
        source = tmp_path / "s.yaml"
        source.write_text(
            "apiVersion: limen.dev/v1\nkind: AttributeSource\nmetadata: {name: s}\nspec:\n"
            f"  http: {{url: 'http://127.0.0.1:{port}/{{u}}'}}\n"
            "  parameters: [{name: u, category: subject, attribute: id}]\n"
            "  attributes: [{category: subject, attribute: ward, field: ward}]\n"
        )
        begin = time.monotonic()
        exit_code, said = await asyncio.to_thread(evaluate, tmp_path, "--source", str(source))
    assert exit_code == 0
    assert time.monotonic() - begin < 15
    (result,) = json.loads(said)["Response"]
    assert result["Decision"] == "Indeterminate"
    assert result["Status"]["StatusCode"]["Value"].endswith("missing-attribute")
    assert [m["AttributeId"] for m in result["Status"]["StatusDetail"]] == ["ward"]


REGO = {
    "a reference cycle": ("p if q\nq if p", "rego-recursion"),
    "an unknown function": ("p if nothing.of_this(1)", "rego-unknown-function"),
    "a function that asks the network": (
        'p if http.send({"method": "get"})',
        "rego-unknown-function",
    ),
    "deep nesting": ("p := " + "[" * 5_000 + "]" * 5_000, "rego-too-large"),
    "10 MB": ("# " + "x" * 10_000_000, "rego-too-large"),
}


@pytest.mark.parametrize(("text", "code"), REGO.values(), ids=REGO.keys())
def test_a_rego_policy_is_refused_at_load(text: str, code: str, tmp_path: Path):
    (tmp_path / "p.rego").write_text(f"package t\n{text}\n")
    (tmp_path / "i.json").write_text("{}")
    command = [LIMEN, "pdp", "evaluate", "--policy", str(tmp_path / "p.rego"), "--root", "t/p"]
    done = subprocess.run(
        [*command, "--request", str(tmp_path / "i.json")],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_S,
    )
    assert done.returncode == 2
    assert code in done.stdout + done.stderr
