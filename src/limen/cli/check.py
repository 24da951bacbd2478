"""`limen check`: is this installation as it should be, and how to mend what is not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from limen.cli.agent import agent_paths, ask, place_options
from limen.cli.client import config_option, open_client
from limen.cli.output import output_option, print_data, print_table
from limen.errors import LimenError
from limen.services.agent.checks import Level, Observed, run_checks

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@place_options
@config_option
@output_option
def check(
    *, mesh: str, state: Path | None, runtime: Path | None, config: Path | None, output: str
) -> None:
    """Check the agent of this host and its server. Exit code 1 if anything fails.

    \b
    Example:
      limen check
      limen check --mesh shop --config ~/shop-client.json -o json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    observed = _observe(mesh, state, runtime, config)
    findings = run_checks(observed)
    if output == "table":
        rows = [(f.level.value, f.check, f.found, f.hint) for f in findings]
        print_table(("", "check", "found", "what to do"), rows)
    else:
        print_data(
            [
                {"check": f.check, "level": f.level.value, "found": f.found, "hint": f.hint}
                for f in findings
            ],
            output,
        )
    if any(f.level is Level.FAIL for f in findings):
        sys.exit(1)


def _observe(mesh: str, state: Path | None, runtime: Path | None, config: Path | None) -> Observed:
    facts: dict[str, Any] = {"agent": None}
    try:
        facts["agent"] = ask(agent_paths(mesh, state, runtime), "status")
    except LimenError as error:
        facts["agent_error"] = str(error)
    try:
        facts |= _ask_server(config)
    except LimenError as error:
        facts["server_error"] = str(error)
    return Observed(**facts)


def _ask_server(config: Path | None) -> dict[str, Any]:
    with open_client(config) as client:
        facts: dict[str, Any] = {"server": client.get("/v1/status")}
        try:
            facts["audit"] = client.get("/v1/audit/verify")
        except LimenError as error:
            facts["audit_error"] = f"{error.code}: {error}"
    return facts
