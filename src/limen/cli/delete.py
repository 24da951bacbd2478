"""`limen delete`: remove a resource, a token or a node."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from limen.cli.client import config_option, open_client
from limen.cli.output import output_option, print_data
from limen.core.model.names import DEFAULT_MESH

if TYPE_CHECKING:
    from pathlib import Path

_OTHERS = {"token": "tokens", "tokens": "tokens", "node": "nodes", "nodes": "nodes"}


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option("-n", "--namespace", help="Namespace, where the kind has one.")
@click.option("-m", "--mesh", default=DEFAULT_MESH, show_default=True)
@config_option
@output_option
def delete(
    *, kind: str, name: str, namespace: str | None, mesh: str, config: Path | None, output: str
) -> None:
    """Delete the resource NAME of KIND (as `limen get` names kinds; also token and node).

    \b
    Example:
      limen delete trafficpermission items-callers
      limen delete dataplane items-1 --mesh shop --namespace prod
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    other = _OTHERS.get(kind.lower())
    with open_client(config) as client:
        if other:
            answer = client.delete(f"/v1/{other}/{quote(name, safe='')}")
        else:
            path = f"/v1/resources/{quote(kind, safe='')}/{quote(name, safe='')}"
            answer = client.delete(path, mesh=mesh, namespace=namespace)
    if output == "table":
        print(f"{kind} {name} deleted")
    else:
        print_data(answer, output)
