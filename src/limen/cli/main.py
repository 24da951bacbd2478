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

COMMANDS: dict[str, tuple[str, str]] = {
    "agent": ("limen.cli.agent:agent", "The agent of one mesh on this host."),
    "apply": ("limen.cli.apply:apply", "Send documents to the server."),
    "cert": ("limen.cli.cert:cert", "Look into certificates."),
    "check": ("limen.cli.check:check", "Check a running installation, with hints."),
    "compile": ("limen.cli.compile:compile_", "The Envoy configuration of one workload."),
    "delete": ("limen.cli.delete:delete", "Remove resources from the server."),
    "demo": ("limen.cli.demo:demo", "See all of it work on this machine."),
    "explain": ("limen.cli.explain:explain", "Would this call be allowed, and why."),
    "gateway": ("limen.cli.gateway:gateway", "Gateways: the edge of a mesh."),
    "get": ("limen.cli.get:get", "Show resources, proxies, tokens, audit."),
    "pdp": ("limen.cli.pdp:pdp", "Decide with XACML and Rego policies."),
    "policy": ("limen.cli.policy:policy", "Look into policies of the decision point."),
    "replay": ("limen.cli.replay:replay", "Past requests under changed policies."),
    "run": ("limen.cli.run:run", "Put a program into the mesh."),
    "server": ("limen.cli.server:server", "The control plane."),
    "test": ("limen.cli.test:test", "A team's own cases against its policies."),
    "token": ("limen.cli.token:token", "Tokens by which hosts join; revoke users'."),
    "validate": ("limen.cli.validate:validate", "Check documents; no server needed."),
}
"""Command name to (`module:attribute`, one line for `--help`)."""

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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List names with their one line, without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(COMMANDS.items())])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return cast("click.Command", getattr(importlib.import_module(module), attribute))


HELP = """Zero-trust security for microservices: identity, mutual TLS, a decision on every request.

\b
Start here:
  limen demo                    see it work on this machine
  limen validate -f policies/   check files, no server needed
  limen server run              a control plane
  limen run --service items --port 8080 -- ./program
"""


@click.group(cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="limen")
def limen() -> None:
    """The root of all commands; `HELP` is its text."""


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
