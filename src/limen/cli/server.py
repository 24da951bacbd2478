"""`limen server`: run the control plane, ask how it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from limen.cli.client import config_option, open_client
from limen.cli.output import output_option, print_data

DEFAULT_DATA = Path("~/.local/share/limen/server")


@click.group()
def server() -> None:
    """The control plane: resources, identities, policy, discovery."""


@server.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DATA,
    show_default=True,
    envvar="LIMEN_DATA",
    help="Directory of everything that the server keeps (made with mode 0700).",
)
@click.option(
    "--kek",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="LIMEN_KEK",
    help="File of the key that encrypts the keys in the data directory; keep it elsewhere.",
)
@click.option(
    "--api", default="127.0.0.1:7443", show_default=True, envvar="LIMEN_API",
    help="Where operators and joining nodes connect (port 0: any free one).",
)  # fmt: skip
@click.option(
    "--node", default="127.0.0.1:7444", show_default=True, envvar="LIMEN_NODE",
    help="Where agents connect once they have joined (port 0: any free one).",
)  # fmt: skip
@click.option(
    "--advertise",
    multiple=True,
    envvar="LIMEN_ADVERTISE",
    help="Host name or address by which others reach this server; repeatable.",
)
@click.option("--log", type=click.Choice(["text", "json"]), default="text", show_default=True)
def run(
    *, data: Path, kek: Path | None, api: str, node: str, advertise: tuple[str, ...], log: str
) -> None:
    """Run a server until SIGTERM or Ctrl-C. TLS on every port from the first start."""
    from limen.services.server.run import run_server  # noqa: PLC0415 - grpc loads slowly
    from limen.services.server.settings import (  # noqa: PLC0415 - as above
        ServerSettings,
        parse_address,
    )

    run_server(
        ServerSettings(
            data=data.expanduser(),
            kek=kek.expanduser() if kek else None,
            api=parse_address(api),
            node=parse_address(node),
            advertise=advertise,
            log_json=log == "json",
        ),
        lambda line: print(line, flush=True),
    )


@server.command()
@config_option
@output_option
def status(config: Path | None, output: str) -> None:
    """How the server of the client file is."""
    with open_client(config) as client:
        answer: dict[str, Any] = client.get("/v1/status")
    if output != "table":
        print_data(answer, output)
        return
    for key, value in answer.items():
        print(f"{key.replace('_', ' '):18} {value}")
