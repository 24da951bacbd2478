"""The `limen` program: a group whose verbs and nouns are loaded when they are called.

Exit codes, the same for every verb: 0 done; 1 the answer is "no" (findings, failed checks);
2 wrong use or invalid input; 3 not trusted; 4 not found; 5 conflict; 6 unavailable.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, cast

import click

from limen import __version__
from limen.errors import Conflict, InvalidInput, LimenError, NotFound, Unavailable, Untrusted

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: dict[str, str] = {
    "agent": "limen.cli.agent:agent",
    "apply": "limen.cli.apply:apply",
    "cert": "limen.cli.cert:cert",
    "check": "limen.cli.check:check",
    "compile": "limen.cli.compile:compile_",
    "delete": "limen.cli.delete:delete",
    "demo": "limen.cli.demo:demo",
    "explain": "limen.cli.explain:explain",
    "get": "limen.cli.get:get",
    "pdp": "limen.cli.pdp:pdp",
    "run": "limen.cli.run:run",
    "server": "limen.cli.server:server",
    "token": "limen.cli.token:token",
    "validate": "limen.cli.validate:validate",
}
"""Command name to `module:attribute`."""

EXIT_CODES: tuple[tuple[type[LimenError], int], ...] = (
    (InvalidInput, 2),
    (Untrusted, 3),
    (NotFound, 4),
    (Conflict, 5),
    (Unavailable, 6),
    (LimenError, 2),
)


class LazyGroup(click.Group):
    """Imports a command when it is named, so that `limen validate` starts in an instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        del ctx
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        return cast("click.Command", getattr(importlib.import_module(module), attribute))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="limen")
def limen() -> None:
    """Zero-trust security for microservices: identity, mutual TLS, a decision on every request.

    \b
    Start here:
      limen demo                          see it work on this machine
      limen validate -f policies/         check files, no server needed
      limen server run                    a control plane
      limen run --service items --port 8080 -- ./program
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Turns the error tree into one line on stderr and an exit code."""
    try:
        limen.main(args=None if argv is None else list(argv), prog_name="limen")
    except LimenError as error:
        if isinstance(error, InvalidInput):
            for diagnostic in error.diagnostics:
                print(diagnostic, file=sys.stderr)
        print(f"limen: {error.code}: {error}", file=sys.stderr)
        sys.exit(next(code for kind, code in EXIT_CODES if isinstance(error, kind)))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
