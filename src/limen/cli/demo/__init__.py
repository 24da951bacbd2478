"""`limen demo`: a marketplace of three services on this machine, each call made for real."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from limen.cli.demo.report import Report
from limen.cli.demo.tour import STEPS
from limen.cli.demo.world import World, new_world
from limen.cli.output import output_option, print_data
from limen.errors import LimenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Step = Callable[[World, Report], Awaitable[None]]

STOPPED = 128 + signal.SIGTERM
"""Exit code after SIGTERM or SIGHUP, as shells have it."""


@click.group(invoke_without_command=True)
@click.option("--keep", is_flag=True, help="Leave everything running and say what to try next.")
@output_option
@click.pass_context
def demo(context: click.Context, *, keep: bool, output: str) -> None:
    """Start a server, an agent and three services, and try what must work and what must not.

    Needs no root, no container and no network beyond this machine. Ends with
    `N checks passed, 0 failed`; exit code 1 if a check failed.

    \b
    Example:
      limen demo
      limen demo --keep
      limen demo -o json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if context.invoked_subcommand is None:
        _tour(STEPS, keep=keep, output=output)


@demo.command("user-context")
@click.option("--keep", is_flag=True, help="Leave everything running and say what to try next.")
@output_option
def user_context(*, keep: bool, output: str) -> None:
    """Let a user travel from a provider that is not ours through a gateway and three services.

    A person logs in, a web app calls with an opaque token, services exchange tokens for one
    another, a machine does the same as itself; and everything that must be refused is tried. The
    provider is django-oauth-toolkit: pip install 'limen[demo]'.

    \b
    Example:
      limen demo user-context
      limen demo user-context -o json
    """  # noqa: D301 - as above
    from limen.cli.demo.user_context.tour import run  # noqa: PLC0415 - only here

    _tour((run,), keep=keep, output=output)


def _tour(steps: Sequence[Step], *, keep: bool, output: str) -> None:
    """Take the steps, and say how they went."""
    report = Report(quiet=output != "table")
    try:
        asyncio.run(_run(steps, report, keep=keep))
    except asyncio.CancelledError:
        print("stopped: nothing is left running", file=sys.stderr)
        sys.exit(STOPPED)
    if output == "table":
        print(report.summary())
    else:
        print_data(report.data(), output)
    sys.exit(1 if report.failed else 0)


async def _run(steps: Sequence[Step], report: Report, *, keep: bool) -> None:
    """All steps in one world; a step that cannot be done fails its check and ends the tour."""
    _end_on_signals()
    async with new_world(keep=keep) as world:
        for step in steps:
            try:
                await step(world, report)
            except LimenError as error:
                found = [str(d) for d in getattr(error, "diagnostics", ())]
                seen = "\n".join([str(error), *found])
                report.check(step.__name__, expected="works", seen=seen, passed=False)
                break
        if keep:
            print(what_next(world), file=sys.stderr)


def _end_on_signals() -> None:
    """A demo that is told to stop, or whose terminal goes away, takes its world down, too."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - called in a coroutine
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def what_next(world: World) -> str:
    """Commands to try while the world is left up."""
    on_path = [] if shutil.which("limen") else [f"  export PATH={_folder_of_limen()}:$PATH"]
    lines = [
        "Left running. Try:",
        *on_path,
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


def _folder_of_limen() -> Path:
    """Where this installation's programs are (`make demo` puts nothing on anybody's PATH)."""
    return Path(os.path.abspath(sys.executable)).parent  # noqa: PTH100 - links are not followed
