"""`limen explain`: would this request be allowed, and why. Offline from files, or from a server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from limen.cli.client import Client, config_option
from limen.cli.files import load_files
from limen.cli.live import client_of
from limen.cli.output import output_option, print_data, print_table
from limen.cli.past import find_past
from limen.core.compiler.checks import check
from limen.core.compiler.explain import explain as explain_snapshot
from limen.core.compiler.explanation import ExplainQuery, Json
from limen.core.model.diagnostic import has_errors
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.compiler.past import PastRequest
    from limen.core.model.diagnostic import Diagnostic

MAX_CLAIMS_BYTES = 1 << 20
"""More than that is cut off, and so is not JSON any more."""


@click.command()
@click.option(
    "-f", "--file", "paths", multiple=True, metavar="PATH",
    help="File, directory, or - for standard input; repeatable. No server needed.",
)  # fmt: skip
@click.option(
    "--server", metavar="[URL]", is_flag=False, flag_value="",
    help="Ask the server of the client file; a URL must be its.",
)  # fmt: skip
@click.option(
    "--from", "caller", default="anonymous", show_default=True, metavar="WHO",
    help="SPIFFE ID, NAME, NAMESPACE/NAME, or anonymous (no certificate).",
)  # fmt: skip
@click.option("--to", "callee", default="", metavar="NAME", help="NAME or NAMESPACE/NAME.")
@click.option("--mesh", default="default", show_default=True)
@click.option("--method", default="GET", show_default=True)
@click.option("--path", "target", default="/", show_default=True, help="As a client writes it.")
@click.option(
    "--header", "headers", multiple=True, metavar="K=V",
    help="Repeatable, in order; host=NAME is the name that the caller used.",
)  # fmt: skip
@click.option("--source-ip", default="", metavar="IP", help="The other end of the connection.")
@click.option(
    "--remote-ip", default="", metavar="IP", help="The client behind trusted proxies, if another."
)
@click.option(
    "--claims", type=click.Path(dir_okay=False, path_type=Path),
    help="JSON object: the claims of a token that has been verified.",
)  # fmt: skip
@click.option(
    "--sni", default="", metavar="NAME",
    help="The server name that a client asks a gateway for; the host unless given.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), help="The guarded port; else all of them.")
@click.option(
    "--request-id", metavar="ID",
    help="A past request, found in the logs of the agent on this host, or in --log.",
)  # fmt: skip
@click.option(
    "--log", type=click.Path(dir_okay=False, path_type=Path),
    help="An access log of a proxy, or -; without --request-id its last request.",
)  # fmt: skip
@click.option("--runtime", type=click.Path(path_type=Path), help="The agent's sockets.")
@click.option(
    "--provider-allows", "consents", multiple=True, metavar="NAME",
    help="A provider of CUSTOM policies that is taken to consent; else it refuses. Repeatable.",
)  # fmt: skip
@config_option
@output_option
@click.pass_context
def explain(
    context: click.Context,
    paths: tuple[str, ...],
    *,
    server: str | None,
    caller: str,
    callee: str,
    mesh: str,
    method: str,
    target: str,
    headers: tuple[str, ...],
    source_ip: str,
    remote_ip: str,
    claims: Path | None,
    sni: str,
    port: int | None,
    request_id: str | None,
    log: Path | None,
    runtime: Path | None,
    consents: tuple[str, ...],
    config: Path | None,
    output: str,
) -> None:
    """Judge an imagined request, or a past one: verdict, deciding rule, near misses.

    Of a past request it says what its proxy decided then, and what would be decided now.

    Exit code 0 whatever the verdict; 1 if the files have errors; 4 if the mesh, the workload or
    the port does not exist. In files, a workload that is not declared is assumed with service
    account, label app and tag kuma.io/service equal to its name.

    \b
    Example:
      limen explain -f policies/ --from shop --to items --method POST --path /orders
      limen explain --server --from spiffe://cluster.local/ns/default/sa/shop --to items
      limen explain --server --request-id 3f1c9a52-6d0e-4b57-9f0e-2f4f1c2f0c11
      limen explain -f policies/ --log access.jsonl
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if bool(paths) and server is not None:
        raise click.UsageError("-f PATH and --server URL cannot be used together")
    if request_id is not None or log is not None:
        _refuse_parts(context)
    query = ExplainQuery(
        caller=caller,
        callee=callee,
        mesh=mesh,
        method=method,
        path=target,
        headers=tuple(_header(h) for h in headers),
        port=port,
        claims=None if claims is None else _claims(claims),
        assume=bool(paths),
        source_ip=source_ip,
        remote_ip=remote_ip,
        sni=sni,
        consents=consents,
    )
    past = None
    if request_id is not None or log is not None:
        past = find_past(request_id, log, mesh, runtime)
        query = replace(past.query, mesh=mesh, assume=bool(paths))
    elif not callee:
        raise click.UsageError("say whom the request calls: --to NAME, or --request-id, or --log")
    if not paths:
        answer = _ask_server(config, server, query)
    else:
        loaded = load_files(paths)
        findings = loaded.diagnostics
        if not has_errors(findings):
            findings += check(loaded.snapshot)
        print_findings(findings)
        if has_errors(findings):
            context.exit(1)
        answer = explain_snapshot(loaded.snapshot, query).to_json()
    if past is not None:
        answer["then"] = _then(past)
        if past.token:
            answer["allowed"] = None
            answer["reason"] = "it cannot be said: its token was refused, and tokens are not logged"
    if output == "table":
        _print(answer)
    else:
        print_data(answer, output)


_PARTS = {
    "caller": "--from", "callee": "--to", "method": "--method", "target": "--path",
    "headers": "--header", "source_ip": "--source-ip", "remote_ip": "--remote-ip",
    "claims": "--claims", "port": "--port", "consents": "--provider-allows",
}  # fmt: skip
"""Options that say what an imagined request is like."""


def _refuse_parts(context: click.Context) -> None:
    """A past request is as it was: what is said beside it would be ignored."""
    given = [
        option
        for name, option in _PARTS.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)}: a past request (--request-id, --log) is taken as it was logged"
        )


def _then(past: PastRequest) -> dict[str, Any]:
    return {
        "allowed": past.allowed,
        "status": past.status,
        "rule": past.rule or None,
        "time": past.time,
        "request_id": past.request_id,
        "token": past.token or None,
    }


def print_findings(findings: Sequence[Diagnostic]) -> None:
    """Findings on standard error, one a line."""
    for finding in findings:
        click.echo(f"{finding.severity.value}: {finding}", err=True)


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{text[:80]!a} is not K=V", param_hint="--header")
    return name, value


def _claims(path: Path) -> dict[str, Json]:
    """The JSON object in `path`. Duplicate names and NaN are refused. Raises InvalidInput."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CLAIMS_BYTES)
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"cannot read claims from {path}: {error}", code="bad-claims") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} is not a JSON object", code="bad-claims")
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


def _no_constant(text: str) -> Json:
    raise ValueError(f"{text} is not JSON")


def _ask_server(config: Path | None, server: str | None, query: ExplainQuery) -> dict[str, Any]:
    """The server's answer. `--server` must be the client file's server, whose CA we know."""
    file = client_of(config, server)
    body: dict[str, object] = {
        "from": query.caller,
        "to": query.callee,
        "mesh": query.mesh,
        "method": query.method,
        "path": query.path,
        "headers": [list(pair) for pair in query.headers],
    }
    optional = {
        "port": query.port,
        "claims": query.claims,
        "source_ip": query.source_ip or None,
        "remote_ip": query.remote_ip or None,
        "sni": query.sni or None,
        "provider_allows": list(query.consents) or None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    with Client(file) as client:
        answer: dict[str, Any] = client.post("/v1/explain", body)
    return answer


def _print(answer: dict[str, Any]) -> None:
    then = answer.get("then")
    if then is not None:
        was = {True: "allowed", False: "denied", None: "not decided"}[then["allowed"]]
        rule = f" by {then['rule']}" if then["rule"] else ""
        print(f"then ({then['time']}): {was}, status {then['status']}{rule}")
        print("now:")
    verdict = {True: "allowed", False: "denied", None: "undecidable"}[answer["allowed"]]
    who = answer["from"] or "a caller without identity"
    print(f"{verdict}: {answer['reason']}")
    print(f"  {who} -> {answer['to']}:{answer['port']} {answer['method']} {answer['path']}")
    if answer["rule"] is not None:
        print(f"  by {_place(answer['rule'])}")
    if answer.get("token") not in (None, "", "no token"):
        print(f"  token: {answer['token']}")
    for rule in answer.get("asked", ()):
        print(f"  asks the provider {rule['provider']} because of {_place(rule)}")
    if answer.get("undecided"):
        name = next(r["provider"] for r in answer["asked"] if _place(r) == _place(answer["rule"]))
        print(f"  if it consents: --provider-allows {name}")
    trial = answer.get("dry_run", [])
    for rule in trial:
        print(f"  on trial, not enforced: {_place(rule)} would {rule['action']} it")
    for rule in answer.get("audited", ()):
        print(f"  audited by {_place(rule)}")
    if answer["near_misses"]:
        print("near misses:")
        rows = [
            (_place(miss["rule"]), miss["field"], miss["wanted"], miss["seen"])
            for miss in answer["near_misses"]
        ]
        print_table(("rule", "field", "wanted", "seen"), rows)
    for note in (*answer["assumed"], *answer["notes"]):
        print(f"note: {note}")


def _place(rule: dict[str, Any]) -> str:
    where = f" ({rule['file']}:{rule['line']})" if rule["file"] else ""
    return f"{rule['kind']} {rule['namespace']}/{rule['name']} rule {rule['index']}{where}"
