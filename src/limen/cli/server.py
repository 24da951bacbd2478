"""`limen server`: run the control plane, ask how it is."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from limen.cli.client import (
    Client,
    ClientFile,
    client_path,
    config_option,
    load_client_file,
    open_client,
    save_client_file,
)
from limen.cli.output import output_option, print_data
from limen.errors import NotFound

DEFAULT_DATA = Path("~/.local/share/limen/server")
STORE_FILE = "limen.db"
"""As `services/server` names it in its data directory."""


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
@click.option(
    "--jwks-allow",
    multiple=True,
    metavar="NETWORK",
    envvar="LIMEN_JWKS_ALLOW",
    help="Network that is not public and may be asked for key sets of issuers; repeatable.",
)
@click.option(
    "--jwks-ca",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    envvar="LIMEN_JWKS_CA",
    help="Authorities (PEM) of the providers of key sets, instead of the system's.",
)
@click.option(
    "--role",
    type=click.Choice(["all", "server", "tokens"]),
    default="all",
    show_default=True,
    help="all: server and token service in one process; tokens: a token service of its own.",
)
@click.option(
    "--tokens",
    envvar="LIMEN_TOKENS",
    metavar="ADDRESS",
    help="Where clients ask for tokens; two above --api's port, or any free one where that is 0.",
)
@click.option(
    "--issuer",
    envvar="LIMEN_ISSUER",
    help="What tokens of the token service say in `iss`; its address if absent.",
)
@click.option(
    "--mesh", default="default", show_default=True, help="The mesh that the token service serves."
)
@click.option(
    "--token-rate",
    type=click.FloatRange(min=0.1),
    default=2000.0,
    show_default=True,
    help="Tokens a second that one client may ask for, twice that at once.",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="With --role tokens: the credential that `limen server add-role` wrote.",
)
@click.option("--log", type=click.Choice(["text", "json"]), default="text", show_default=True)
def run(
    *,
    data: Path,
    kek: Path | None,
    api: str,
    node: str,
    advertise: tuple[str, ...],
    jwks_allow: tuple[str, ...],
    jwks_ca: Path | None,
    role: str,
    tokens: str | None,
    issuer: str | None,
    mesh: str,
    token_rate: float,
    config: Path | None,
    log: str,
) -> None:
    """Run a server until SIGTERM or Ctrl-C. TLS on every port from the first start.

    With --role tokens: a token service beside a server that runs elsewhere, with keys of its own.

    \b
    Example:
      limen server run
      limen server run --data /var/lib/limen --kek /etc/limen/kek \\
        --api 0.0.0.0:7443 --node 0.0.0.0:7444 --advertise server.example.com
      limen server run --role tokens --config tokens.json --data /var/lib/limen-tokens \\
        --tokens 0.0.0.0:7445 --advertise tokens.example.com
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a stranger's handshake is no news
    from limen.cli.token_service import TokenOptions, roles_of, run_apart  # noqa: PLC0415 - as below
    from limen.services.server.run import run_server  # noqa: PLC0415 - grpc loads slowly
    from limen.services.server.settings import (  # noqa: PLC0415 - as above
        ServerSettings,
        parse_address,
        parse_network,
    )

    settings = ServerSettings(
        data=data.expanduser(),
        kek=kek.expanduser() if kek else None,
        api=parse_address(api),
        node=parse_address(node),
        advertise=advertise,
        jwks_allowed=tuple(parse_network(network) for network in jwks_allow),
        jwks_ca_pem=jwks_ca.read_text(encoding="ascii") if jwks_ca else "",
        log_json=log == "json",
    )
    options = TokenOptions(tokens or "", issuer or "", mesh, token_rate)
    if role == "tokens":
        run_apart(settings, options, config)
        return
    roles = roles_of(settings, options) if role == "all" else {}
    run_server(settings, lambda line: print(line, flush=True), roles)


_data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DATA,
    show_default=True,
    envvar="LIMEN_DATA",
    help="Data directory of the server.",
)


@server.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_data_option
def backup(file: Path, data: Path) -> None:
    """Copy a server's store to the new FILE (0600). The server may run, and goes on.

    The keys in it are encrypted under the file given with `server run --kek`: keep a copy of that
    one too, in another place.

    \b
    Example:
      limen server backup /backup/limen-monday.db
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from limen.adapters import store_sqlite  # noqa: PLC0415 - only here

    store = data.expanduser() / STORE_FILE
    if not store.exists():
        raise NotFound(f"there is no store at {store}", code="no-store", hint="name it with --data")
    revision = asyncio.run(store_sqlite.backup(store, file.absolute()))
    print(f"revision {revision} copied to {file}")


@server.command()
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@_data_option
def restore(file: Path, data: Path) -> None:
    """Make a server's store from the backup FILE. The server must be stopped.

    The backup's structure and its audit chain are checked. The restored store has a new epoch:
    agents that knew the later state refuse it, and go on with what they have, until each is started
    again with --accept-epoch.

    \b
    Example:
      mv ~/.local/share/limen/server/limen.db* /somewhere/else/
      limen server restore /backup/limen-monday.db
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from limen.adapters import store_sqlite  # noqa: PLC0415 - only here
    from limen.adapters.store import AuditEntry  # noqa: PLC0415 - only here
    from limen.services.server.data_dir import locked, prepare  # noqa: PLC0415 - only here

    directory = data.expanduser()
    prepare(directory)
    entry = AuditEntry(time.time(), "operator", "restore", "limen.dev/Store", "", "", file.name)
    with locked(directory):
        epoch = asyncio.run(store_sqlite.restore(file.absolute(), directory / STORE_FILE, [entry]))
    print(f"restored; the new epoch is {epoch}")


@server.command("rotate-admin")
@config_option
def rotate_admin(config: Path | None) -> None:
    """Replace the admin's token: in the server, in its client file, and in yours.

    Every other copy of the old one is worthless at once.

    \b
    Example:
      limen server rotate-admin
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    path = client_path(config)
    before = load_client_file(path)
    with Client(before) as client:
        answer: dict[str, Any] = client.post("/v1/admin/rotate", {})
    save_client_file(path, replace(before, token=str(answer["token"])))
    print(f"the admin has a new token, kept in {path}; the old one is refused")


@server.command("add-role")
@click.argument("name")
@click.option("--role", type=click.Choice(["tokens", "pdp"]), default="tokens", show_default=True)
@click.option("--mesh", default="default", show_default=True)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Host name or address by which it is reached, for its certificate; repeatable.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The new file (0600) for its credential.",
)
@config_option
def add_role(
    *, name: str, role: str, mesh: str, names: tuple[str, ...], out: Path, config: Path | None
) -> None:
    """Make a credential for a token service or decision point that runs as a process of its own.

    \b
    Example:
      limen server add-role tokens-1 --name tokens.example.com -o tokens.json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    body = {"name": name, "role": role, "mesh": mesh, "names": list(names)}
    with open_client(config) as client:
        answer: dict[str, Any] = client.post("/v1/roles", body)
    save_client_file(out, ClientFile(answer["server"], answer["ca_pem"], answer["token"]))
    print(f"the credential of {name} is in {out}")


@server.command("delete-role")
@click.argument("name")
@config_option
def delete_role(name: str, config: Path | None) -> None:
    """End a role's credential; it is refused from now on.

    \b
    Example:
      limen server delete-role tokens-1
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    with open_client(config) as client:
        client.delete(f"/v1/roles/{name}")
    print(f"{name} is known no more")


@server.command()
@config_option
@output_option
def status(config: Path | None, output: str) -> None:
    """How the server of the client file is.

    \b
    Example:
      limen server status -o json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    with open_client(config) as client:
        answer: dict[str, Any] = client.get("/v1/status")
    if output != "table":
        print_data(answer, output)
        return
    for key, value in answer.items():
        print(f"{key.replace('_', ' '):18} {value}")
