"""`limen pdp`: decide from XACML and Rego policies on this machine, and say why."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from limen.adapters.policy_files import (
    find_cases,
    language_of,
    read_bounded,
    read_policies,
    read_rego,
)
from limen.cli.output import print_data
from limen.core.policy.rego.source import DEFAULT_ENTRY, MAX_DATA_BYTES
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.conformance import CaseDocuments, judge_case
from limen.core.policy.xacml.engine import load_policies
from limen.core.policy.xacml.json_request import read_json_request
from limen.core.policy.xacml.json_response import write_json_response
from limen.core.policy.xacml.limits import MAX_REQUEST_BYTES
from limen.core.policy.xacml.xml_request import read_xml_request
from limen.core.policy.xacml.xml_response import write_xml_response
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limen.adapters.policy_files import Case
    from limen.core.policy.engine import PolicyEngine
    from limen.core.policy.xacml.engine import Engine
    from limen.core.policy.xacml.request import XacmlRequest

_PATH = click.Path(path_type=Path)


@click.group()
def pdp() -> None:
    """Decide from XACML 3.0 or Rego policies, without a server."""


def _policy_options(*, required: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        root = click.option(
            "--root",
            metavar="ID",
            help="The policy to begin with; in Rego the decision, as PACKAGE/RULE.",
        )
        policy = click.option(
            "--policy",
            "policies",
            multiple=True,
            required=required,
            type=_PATH,
            metavar="PATH",
            help="Policy file, or directory of .xml or .rego files; repeatable.",
        )
        request = click.option(
            "--request",
            "request_file",
            type=_PATH,
            required=required,
            metavar="FILE",
            help="Request, XML or JSON (Rego: the input document); - for standard input.",
        )
        return policy(root(request(command)))

    return decorate


@pdp.command()
@_policy_options(required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(("xml", "json")),
    help="Form of the response; else that of the request.",
)
@click.option(
    "--data",
    "data",
    multiple=True,
    type=_PATH,
    metavar="FILE",
    help="Data document of Rego policies, JSON; repeatable.",
)
@click.option("--batch", type=_PATH, metavar="DIR", help="Run a directory of conformance cases.")
def evaluate(  # noqa: PLR0917 - click passes options by name
    policies: tuple[Path, ...],
    root: str | None,
    request_file: Path | None,
    form: str | None,
    data: tuple[Path, ...],
    batch: Path | None,
) -> None:
    """Print the response to a request.

    With --batch, runs every case below DIR (Policy.xml or Policies/, Request.xml, Response.xml),
    names each that differs and how, and exits with 1 if one did.

    \b
    Examples:
      limen pdp evaluate --policy policy.xml --request request.xml
      limen pdp evaluate --policy policies/ --root urn:my:root --request r.json --format json
      limen pdp evaluate --policy policy.rego --data roles.json --request input.json
      limen pdp evaluate --batch cases/
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if batch is not None:
        if policies or request_file or root or form or data:
            raise click.UsageError("--batch takes no other option")
        sys.exit(0 if _run_batch(batch) else 1)
    if not policies or request_file is None:
        raise click.UsageError("give --policy and --request, or --batch")
    if language_of(policies) == "rego":
        if form == "xml":
            raise click.UsageError("the response of a Rego policy is JSON")
        _evaluate_rego(policies, root, request_file, data)
        return
    if data:
        raise click.UsageError("--data is for Rego policies")
    request, read_as = _request(request_file)
    response = _engine(policies, root).evaluate(request, _now())
    write = write_json_response if (form or read_as) == "json" else write_xml_response
    print(write(response).decode("utf-8").rstrip("\n"))


@pdp.command()
@click.option(
    "--policy",
    "policies",
    multiple=True,
    required=True,
    type=_PATH,
    metavar="PATH",
    help="Policy file, or directory of .xml or .rego files; repeatable.",
)
@click.option(
    "--root", metavar="ID", help="The policy to begin with; in Rego the decision, as PACKAGE/RULE."
)
@click.option(
    "--data",
    multiple=True,
    type=_PATH,
    metavar="FILE",
    help="Data document of Rego policies, JSON.",
)
@click.option(
    "--listen", required=True, metavar="ADDRESS", help="unix:PATH, or HOST:PORT of this host."
)
@click.option(
    "--grpc", default="", metavar="ADDRESS", help="The same, for Envoy's ext_authz over gRPC."
)
def serve(
    policies: tuple[Path, ...], root: str | None, data: tuple[Path, ...], listen: str, grpc: str
) -> None:
    """Answer decisions: AuthZEN, XACML REST, and Envoy's ext_authz.

    Says `ready ADDRESS` when callers may come; each obligation to log is a line of JSON.

    \b
    Example:
      limen pdp serve --policy policies/ --root records --listen unix:/run/limen/pdp.sock
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from limen.services.pdp.run import run  # noqa: PLC0415 - loads the event loop

    run(_loaded(policies, root, data), listen, lambda line: print(line, flush=True), grpc)


def _loaded(policies: Sequence[Path], root: str | None, data: Sequence[Path]) -> PolicyEngine:
    """The engine of the policies, tried out first where the language allows harm."""
    if language_of(policies) == "xacml":
        if data:
            raise click.UsageError("--data is for Rego policies")
        return XacmlPolicyEngine(_engine(policies, root))
    from limen.adapters.rego_process import RegoSet, try_load  # noqa: PLC0415 - loads the engine
    from limen.core.policy.rego.engine import load_rego  # noqa: PLC0415 - as above

    modules = tuple(read_rego(policies))
    documents = tuple(_json_text(path, MAX_DATA_BYTES) for path in data)
    entry = root or DEFAULT_ENTRY
    try_load(RegoSet(modules, documents, entry))
    return load_rego(modules, [text.encode() for text in documents], entry)


@pdp.command()
@_policy_options(required=True)
@click.option(
    "-o",
    "--output",
    type=click.Choice(("tree", "json", "yaml")),
    default="tree",
    show_default=True,
    help="Form.",
)
def explain(policies: tuple[Path, ...], root: str | None, request_file: Path, output: str) -> None:
    """Print how a decision comes about: every policy and rule that was looked at, as a tree.

    \b
    Example:
      limen pdp explain --policy policies/ --request request.xml
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if language_of(policies) == "rego":
        message = "a decision of Rego cannot be explained"
        raise InvalidInput(
            message, code="later", hint="evaluate rules of it one by one, with --root"
        )
    request, _ = _request(request_file)
    response, traces = _engine(policies, root).explain(request, _now())
    if output != "tree":
        data = {
            "decisions": [result.decision.value for result in response.results],
            "traces": [trace.as_data() for trace in traces],
        }
        print_data(data, output)
        return
    for result in response.results:
        status = result.status
        text = f"  ({status.code.rpartition(':')[2]}: {status.message})" if status.message else ""
        print(f"{result.decision.value}{text}")
    for trace in traces:
        print("\n".join(trace.lines()))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _engine(policies: Sequence[Path], root: str | None) -> Engine:
    files = read_policies(policies)
    return load_policies([f.document for f in files], root, files=[f.path for f in files])


def _evaluate_rego(
    policies: Sequence[Path], root: str | None, request_file: Path, data: Sequence[Path]
) -> None:
    from limen.adapters.rego_process import RegoSet, ask  # noqa: PLC0415 - loads the engine
    from limen.core.policy.rego.decision import verdict_of  # noqa: PLC0415 - as above

    modules = tuple(read_rego(policies))
    documents = tuple(_json_text(path, MAX_DATA_BYTES) for path in data)
    request = json.loads(_json_text(request_file, MAX_REQUEST_BYTES))
    answer = ask(RegoSet(modules, documents, root or DEFAULT_ENTRY), request)
    if answer.error:
        print_data({"decision": "Indeterminate", "reason": answer.error}, "json")
        return
    verdict = verdict_of(answer.value)
    found = {"decision": verdict.answer.value, "value": answer.value}
    print_data({**found, "reason": verdict.reason} if verdict.reason else found, "json")


def _json_text(path: Path, limit: int) -> str:
    document = _read(path, limit)
    try:
        if len(document) > limit:
            raise InvalidInput(f"{path} has more than {limit} bytes", code="too-large")
        text = document.decode("utf-8")
        json.loads(text)
    except (ValueError, RecursionError):
        message = f"{path} is not JSON"
        raise InvalidInput(message, code="rego-data", hint="check the file") from None
    return text


def _request(path: Path) -> tuple[XacmlRequest, str]:
    document = _read(path, MAX_REQUEST_BYTES)
    if document.lstrip()[:1] == b"{":
        return read_json_request(document), "json"
    return read_xml_request(document, str(path)), "xml"


def _read(path: Path, limit: int) -> bytes:
    """The bytes of a file or of standard input, one more than `limit` at most."""
    if str(path) == "-":
        return sys.stdin.buffer.read(limit + 1)
    return read_bounded(path, limit)


def _run_batch(directory: Path) -> bool:
    """Whether every case passed."""
    cases = list(find_cases(directory))
    if not cases:
        raise InvalidInput(f"{directory} holds no case", code="no-case", hint="see limen pdp -h")
    progress = sys.stderr.isatty()
    failed = 0
    for number, case in enumerate(cases, start=1):
        if progress:
            print(f"\r{number}/{len(cases)} {case.name:<60.60}", end="", file=sys.stderr)
        found = _judge(case)
        if found:
            failed += 1
            if progress:
                print("\r" + " " * 80 + "\r", end="", file=sys.stderr, flush=True)
            for difference in found:
                print(f"{case.name}: {difference}")
    if progress:
        print("\r" + " " * 80 + "\r", end="", file=sys.stderr, flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return failed == 0


def _judge(case: Case) -> list[str]:
    def read(path: Path | None) -> bytes | None:
        return None if path is None else read_bounded(path)

    try:
        documents = CaseDocuments(
            [read_bounded(path) for path in case.policies],
            read(case.request),
            read(case.response),
            read(case.attributes),
        )
    except InvalidInput as error:
        return [error.message]
    return judge_case(documents, _now())
