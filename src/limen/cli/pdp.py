"""`limen pdp`: decide from XACML and Rego policies on this machine, and say why."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from limen.adapters.policy_files import language_of
from limen.cli import pdp_inputs as inputs
from limen.cli.client import load_client_file
from limen.cli.output import print_data
from limen.cli.pdp_batch import run_batch
from limen.core.policy.sources import AttributeUnavailable
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.json_response import write_json_response
from limen.core.policy.xacml.limits import MAX_REQUEST_BYTES
from limen.core.policy.xacml.xml_response import write_xml_response
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from limen.adapters.attributes.point import InformationPoint
    from limen.adapters.server_link import ServerPlace
    from limen.core.policy.sources import Asking
    from limen.core.policy.xacml.request import XacmlResponse


@click.group()
def pdp() -> None:
    """Decide from XACML 3.0 or Rego policies, without a server."""


@pdp.command()
@inputs.policy_option
@inputs.root_option
@inputs.request_option
@click.option(
    "--format",
    "form",
    type=click.Choice(("xml", "json")),
    help="Form of the response; else that of the request.",
)
@inputs.data_option
@inputs.source_option
@click.option("--batch", type=inputs.PATH, metavar="DIR", help="Run a directory of cases.")
def evaluate(  # noqa: PLR0917 - click passes options by name
    policies: tuple[Path, ...],
    root: str | None,
    request_file: Path | None,
    form: str | None,
    data: tuple[Path, ...],
    sources: tuple[Path, ...],
    batch: Path | None,
) -> None:
    """Print the response to a request.

    With --batch, runs every case below DIR (Policy.xml or Policies/, Request.xml, Response.xml),
    names each that differs and how, and exits with 1 if one did.

    \b
    Examples:
      limen pdp evaluate --policy policy.xml --request request.xml
      limen pdp evaluate --policy policies/ --root urn:my:root --request r.json --format json
      limen pdp evaluate --policy policy.xml --source sources.yaml --request request.xml
      limen pdp evaluate --policy policy.rego --data roles.json --request input.json
      limen pdp evaluate --batch cases/
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if batch is not None:
        if policies or request_file or root or form or data or sources:
            raise click.UsageError("--batch takes no other option")
        sys.exit(0 if run_batch(batch) else 1)
    if not policies or request_file is None:
        raise click.UsageError("give --policy and --request, or --batch")
    point = inputs.information_point(sources)
    if language_of(policies) == "rego":
        if form == "xml":
            raise click.UsageError("the response of a Rego policy is JSON")
        _evaluate_rego(policies, root, request_file, data, point)
        return
    if data:
        raise click.UsageError("--data is for Rego policies")
    request, read_as = inputs.xacml_request(request_file)
    engine = XacmlPolicyEngine(inputs.xacml_engine(policies, root), inputs.book_of(point))
    moment = inputs.now()

    def answer(asking: Asking | None) -> XacmlResponse:
        return engine.engine.evaluate(request, moment, engine.finder(asking))

    response = inputs.decided(point, answer)
    write = write_json_response if (form or read_as) == "json" else write_xml_response
    print(write(response).decode("utf-8").rstrip("\n"))


@pdp.command()
@inputs.policy_option
@inputs.root_option
@inputs.data_option
@inputs.source_option
@click.option(
    "--registered",
    multiple=True,
    type=inputs.PATH,
    metavar="FILE",
    help="Dataplanes, whose labels the sources of kind `labels` give; repeatable.",
)
@click.option(
    "--listen", required=True, metavar="ADDRESS", help="unix:PATH, or HOST:PORT of this host."
)
@click.option(
    "--grpc", default="", metavar="ADDRESS", help="The same, for Envoy's ext_authz over gRPC."
)
@click.option(
    "--server",
    type=inputs.PATH,
    metavar="FILE",
    help="Decide by what a server publishes; FILE is this role's credential (role pdp).",
)
def serve(  # noqa: PLR0917 - click passes options by name
    policies: tuple[Path, ...],
    root: str | None,
    data: tuple[Path, ...],
    sources: tuple[Path, ...],
    registered: tuple[Path, ...],
    listen: str,
    grpc: str,
    server: Path | None,
) -> None:
    """Answer decisions: AuthZEN, XACML REST, and Envoy's ext_authz.

    Says `ready ADDRESS` when callers may come; each obligation to log is a line of JSON.

    \b
    Example:
      limen pdp serve --policy policies/ --root records --listen unix:/run/limen/pdp.sock
      limen pdp serve --server role.json --listen 127.0.0.1:9100
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from limen.services.pdp.run import run, run_following  # noqa: PLC0415 - loads the event loop

    if server is not None:
        if policies or root or data or sources or registered or grpc:
            raise click.UsageError("--server takes --listen and no other option")
        beside = server.resolve().parent / "sources"
        run_following(_server_place(server), beside, listen, lambda line: print(line, flush=True))
        return
    if not policies:
        raise click.UsageError("give --policy or --server")
    point = inputs.information_point(sources)
    engine = inputs.loaded(policies, root, data, inputs.book_of(point))
    labels = _labels(registered)
    run(
        engine,
        listen,
        lambda line: print(line, flush=True),
        grpc=grpc,
        point=point,
        labels=labels.get,
    )


def _server_place(path: Path) -> ServerPlace:
    """The server in a role's credential file."""
    from limen.adapters.server_link import ServerPlace  # noqa: PLC0415 - loads HTTP

    file = load_client_file(path)
    return ServerPlace(file.server, file.ca_pem, file.token)


def _labels(files: Sequence[Path]) -> Mapping[str, Mapping[str, str]]:
    """SPIFFE ID to labels, of the registrations in `files`. Raises `InvalidInput`."""
    if not files:
        return {}
    from limen.adapters.attributes.registered import read_labels  # noqa: PLC0415 - dialects

    return read_labels(files)


@pdp.command()
@inputs.policy_option
@inputs.root_option
@inputs.request_option
@inputs.data_option
@inputs.source_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(("tree", "json", "yaml")),
    default="tree",
    show_default=True,
    help="Form.",
)
def explain(  # noqa: PLR0917 - click passes options by name
    policies: tuple[Path, ...],
    root: str | None,
    request_file: Path | None,
    data: tuple[Path, ...],
    sources: tuple[Path, ...],
    output: str,
) -> None:
    """Print how a decision comes about: every policy and rule that was looked at, as a tree.

    \b
    Example:
      limen pdp explain --policy policies/ --request request.xml
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if not policies or request_file is None:
        raise click.UsageError("give --policy and --request")
    point = inputs.information_point(sources)
    if language_of(policies) == "rego":
        _explain_rego(policies, root, request_file, data, point=point, output=output)
        return
    if data:
        raise click.UsageError("--data is for Rego policies")
    request, _ = inputs.xacml_request(request_file)
    engine = XacmlPolicyEngine(inputs.xacml_engine(policies, root), inputs.book_of(point))
    moment = inputs.now()
    response, traces = inputs.decided(
        point, lambda asking: engine.engine.explain(request, moment, engine.finder(asking))
    )
    if output != "tree":
        found = {
            "decisions": [result.decision.value for result in response.results],
            "traces": [trace.as_data() for trace in traces],
        }
        print_data(found, output)
        return
    for result in response.results:
        status = result.status
        text = f"  ({status.code.rpartition(':')[2]}: {status.message})" if status.message else ""
        print(f"{result.decision.value}{text}")
    for trace in traces:
        print("\n".join(trace.lines()))


def _explain_rego(
    policies: Sequence[Path],
    root: str | None,
    request_file: Path,
    data: Sequence[Path],
    *,
    point: InformationPoint | None,
    output: str,
) -> None:
    from limen.adapters.rego_process import explain as explain_decision  # noqa: PLC0415 - engine
    from limen.core.policy.rego.explanation import lines_of  # noqa: PLC0415 - as above

    found = inputs.rego_set(policies, root, data)
    document = json.loads(inputs.json_text(request_file, MAX_REQUEST_BYTES))
    try:
        tree = explain_decision(found, inputs.with_sources(point, document))
    except AttributeUnavailable as error:
        raise InvalidInput(error.reason, code="missing-attribute") from None
    print_data(tree, output) if output != "tree" else print("\n".join(lines_of(tree)))


def _evaluate_rego(
    policies: Sequence[Path],
    root: str | None,
    request_file: Path,
    data: Sequence[Path],
    point: InformationPoint | None,
) -> None:
    from limen.adapters.rego_process import ask  # noqa: PLC0415 - loads the engine
    from limen.core.policy.rego.decision import verdict_of  # noqa: PLC0415 - as above

    found = inputs.rego_set(policies, root, data)
    document = json.loads(inputs.json_text(request_file, MAX_REQUEST_BYTES))
    try:
        answer = ask(found, inputs.with_sources(point, document))
    except AttributeUnavailable as error:
        reason = f"{error.reason}; missing: {error.name.id}"
        print_data({"decision": "Indeterminate", "reason": reason}, "json")
        return
    if answer.error:
        print_data({"decision": "Indeterminate", "reason": answer.error}, "json")
        return
    verdict = verdict_of(answer.value)
    told = {"decision": verdict.answer.value, "value": answer.value}
    print_data({**told, "reason": verdict.reason} if verdict.reason else told, "json")
