"""`limen demo`: a marketplace of three services on this machine, each call made for real."""

from __future__ import annotations

import asyncio
import json
import sys

import click

from limen.cli.demo.report import Report
from limen.cli.demo.tour import STEPS
from limen.cli.demo.world import World, new_world
from limen.errors import LimenError


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running and say what to try next.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def demo(*, keep: bool, output: str) -> None:
    """Start a server, an agent and three services, and try what must work and what must not.

    Needs no root, no container and no network beyond this machine. Ends with
    `N checks passed, 0 failed`; exit code 1 if a check failed.

    \b
    Example:
      limen demo
      limen demo --keep
      limen demo -o json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    report = Report(quiet=output == "json")
    asyncio.run(_run(report, keep=keep))
    if output == "json":
        print(json.dumps(report.data(), indent=2, ensure_ascii=False))
    else:
        print(report.summary())
    sys.exit(1 if report.failed else 0)


async def _run(report: Report, *, keep: bool) -> None:
    """All steps in one world; a step that cannot be done fails its check and ends the tour."""
    async with new_world(keep=keep) as world:
        for step in STEPS:
            try:
                await step(world, report)
            except LimenError as error:
                found = [str(d) for d in getattr(error, "diagnostics", ())]
                seen = "\n".join([str(error), *found])
                report.check(step.__name__, expected="works", seen=seen, passed=False)
                break
        if keep:
            print(what_next(world), file=sys.stderr)


def what_next(world: World) -> str:
    """Commands to try while the world is left up."""
    lines = [
        "Left running. Try:",
        f"  export LIMEN_CONFIG={world.client_file}",
        "  limen get proxies",
        "  limen get trafficpermissions",
        "  limen explain --server --from items --to users",
        f"  limen agent status --runtime {world.runtime}",
        "  limen get audit",
        f"Logs are in {world.base / 'logs'}. To end it:",
        f"  kill {' '.join(str(p) for p in world.programs.pids())}",
        f"  rm -r {world.base} {world.runtime}",
    ]
    return "\n".join(lines)
