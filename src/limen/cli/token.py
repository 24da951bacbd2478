"""`limen token`: permissions to join, made by an operator, redeemed once by an agent.

`revoke` also ends tokens of users and programs, which a token service has signed.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import click

from limen.cli.client import config_option, open_client
from limen.cli.output import output_option
from limen.core.model.names import DEFAULT_MESH, DEFAULT_NAMESPACE
from limen.errors import Conflict, InvalidInput

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
def token() -> None:
    """Join tokens."""


@token.command()
@click.option("--mesh", "-m", default=DEFAULT_MESH, show_default=True)
@click.option(
    "--service",
    "services",
    multiple=True,
    required=True,
    help="Service that the node may run; repeatable.",
)
@click.option("--namespace", "-n", default=DEFAULT_NAMESPACE, show_default=True)
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Tag of its workloads.")
@click.option("--gateway", is_flag=True, help="They are gateways: `limen gateway run`.")
@click.option("--ttl", default="10m", show_default=True, help="How long it may be redeemed.")
@click.option(
    "--output-file", "--output", "file", type=click.Path(dir_okay=False, path_type=Path),
    help="Write the token to this new file (0600) instead of showing it.",
)  # fmt: skip
@config_option
def create(
    *,
    mesh: str,
    services: tuple[str, ...],
    namespace: str,
    tags: tuple[str, ...],
    gateway: bool,
    ttl: str,
    file: Path | None,
    config: Path | None,
) -> None:
    """Make a token that lets one node join and run the named services.

    Prints the token alone, so that `TOKEN=$(limen token create --service items)` works.

    \b
    Example:
      limen token create --service items --ttl 10m --output items.token
      limen token create --mesh shop --service web --service api
      limen token create --gateway --service ingress -n istio-system --tag istio=ingressgateway
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    body = {
        "mesh": mesh,
        "services": list(services),
        "namespace": namespace,
        "tags": dict(_parse_tag(t) for t in tags),
        "gateway": gateway,
        "ttl_s": parse_duration_s(ttl),
    }
    with open_client(config) as client:
        answer = client.post("/v1/tokens", body)
    if file is None:
        print(answer["token"])
        return
    _save_new(file, answer["token"])
    print(f"token {answer['id']} written to {file}")


@token.command("list")
@config_option
@output_option
def list_(config: Path | None, output: str) -> None:
    """The tokens that were made, without their secrets.

    \b
    Example:
      limen token list -o json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from limen.cli.get import show  # noqa: PLC0415 - only this verb needs it

    show("tokens", config=config, output=output)


@token.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--user", metavar="ISSUER:SUBJECT", help="All tokens of a user, as `sub` says it.")
@click.option("--jti", help="One token of the token service.")
@click.option("--txn", help="All tokens of one transaction.")
@click.option("--mesh", "-m", default=DEFAULT_MESH, show_default=True, help="Of user, jti or txn.")
@click.option(
    "--for", "ttl", default="1d", show_default=True,
    help="How long user, jti or txn is refused; no token lives longer than an hour.",
)  # fmt: skip
@config_option
def revoke(
    *,
    id_: str | None,
    user: str | None,
    jti: str | None,
    txn: str | None,
    mesh: str,
    ttl: str,
    config: Path | None,
) -> None:
    """Make a join token useless, or a user's tokens, everywhere in a mesh.

    Nodes that joined with it stay: see `limen delete node`. A user gets no new tokens meanwhile;
    afterwards whoever the login provider still lets in does.

    \b
    Example:
      limen token revoke 6a0df6ddb4a74023
      limen token revoke --user login:ann --for 7d
      limen token revoke --jti 4f1c2a6e9b7d4d0b
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    named = {"id": id_, "sub": user, "jti": jti, "txn": txn}
    given = [(by, value) for by, value in named.items() if value is not None]
    if len(given) != 1 or not given[0][1]:
        raise InvalidInput("say what to revoke", hint="write an ID, --user, --jti or --txn: one")
    ((by, value),) = given
    if by == "sub" and ":" not in value:
        raise InvalidInput(
            f"{value[:80]!a} is no user of a token",
            hint="write ISSUER:SUBJECT, as the token's sub says it: login:ann",
        )
    body = {"issuer": "", "by": by, "value": value, "mesh": mesh}
    until_s = time.time() + parse_duration_s(ttl)
    with open_client(config) as client:
        if by == "id":
            client.delete(f"/v1/tokens/{value}")
        else:
            client.post("/v1/revocations", {**body, "until_s": until_s})
    print(f"{'token' if by == 'id' else by} {value} revoked")


def parse_duration_s(text: str) -> int:
    """`90s`, `10m`, `2h`, `1d` in seconds. Raises InvalidInput."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text, re.ASCII)
    if match is None:
        raise InvalidInput(f"{text[:40]!a} is not a duration", hint="write 90s, 10m, 2h or 1d")
    return int(match[1]) * _UNITS[match[2]]


def _parse_tag(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key or not value:
        raise InvalidInput(f"{text[:80]!a} is not a tag", hint="write KEY=VALUE")
    return key, value


def _save_new(path: Path, secret: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict(f"{path} exists already", hint="name a new file") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
