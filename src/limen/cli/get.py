"""`limen get`: what the server knows, resources and state."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from limen.cli.audit import TAMPERED, parse_head, verify_audit
from limen.cli.client import config_option, open_client
from limen.cli.output import output_option, print_data, print_table
from limen.core.model.names import DEFAULT_MESH
from limen.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from limen.cli.client import Client

    Row = Mapping[str, Any]
    Column = tuple[str, Callable[[Row], object]]


_SOURCES = 5
"""In a table; `-o json` has all."""


def _time(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _field(name: str) -> Callable[[Row], object]:
    return lambda row: "-" if row.get(name) in {None, ""} else row[name]


def _at(name: str) -> Callable[[Row], object]:
    return lambda row: _time(row.get(name))


def _entitled(row: Row) -> str:
    return ",".join(f"{e['namespace']}/{e['service']}" for e in row.get("entitlements", ()))


def _state(row: Row) -> str:
    """What it confirmed, which of its listeners are closed and why, and what was lost."""
    closed, lost = row.get("closed_listeners") or (), row.get("audit_dropped") or 0
    parts = [str(row["state"]), *(f"a listener is closed: {why}" for why in closed)]
    return "; ".join([*parts, *([f"{lost} audit events lost"] if lost else [])])


def _sources(sources: Sequence[Row]) -> str:
    """Addresses, each with who lives there, the newest first."""
    named = [
        f"{s['address']} ({', '.join(s['instances'])})" if s["instances"] else s["address"]
        for s in sources[:_SOURCES]
    ]
    more = len(sources) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "") or "-"


STATE: dict[str, tuple[Column, ...]] = {
    "proxies": (
        ("mesh", _field("mesh")),
        ("instance", _field("instance")),
        ("node", _field("node")),
        ("connected", lambda r: "yes" if r["connected"] else "no"),
        ("revision", _field("applied_revision")),
        ("state", _state),
        ("isolation", _field("isolation")),
        ("outage budget", lambda r: _budget(r.get("outage_budget_s"))),
    ),
    "plaintext": (
        ("mesh", _field("mesh")),
        ("instance", _field("instance")),
        ("port", _field("port")),
        ("requests", lambda r: "unknown" if r["requests"] is None else r["requests"]),
        ("last seen", lambda r: str(r["last"] or "never")[:19]),
        ("counted since", _at("since_s")),
        ("connected", lambda r: "yes" if r["connected"] else "no"),
        ("from", lambda r: _sources(r["sources"])),
    ),
    "tokens": (
        ("id", _field("id")),
        ("mesh", _field("mesh")),
        ("services", _entitled),
        ("expires", _at("expires_s")),
        ("state", _field("state")),
    ),
    "nodes": (
        ("id", _field("id")),
        ("mesh", _field("mesh")),
        ("hostname", _field("hostname")),
        ("services", _entitled),
        ("joined", _at("joined_s")),
    ),
    "certificates": (
        ("serial", _field("serial")),
        ("mesh", _field("mesh")),
        ("subject", _field("subject")),
        ("instance", _field("instance")),
        ("expires", _at("not_after_s")),
    ),
    "audit": (
        ("seq", _field("seq")),
        ("time", _at("time_s")),
        ("actor", _field("actor")),
        ("verb", _field("verb")),
        ("kind", _field("kind")),
        ("mesh", _field("mesh")),
        ("name", lambda r: f"{r['namespace']}/{r['name']}" if r["namespace"] else r["name"]),
    ),
    "jwks": (
        ("source", _field("source")),
        ("meshes", lambda r: ",".join(r["meshes"])),
        ("keys", lambda r: ",".join(k or "(no kid)" for k in r["keys"]) or "none"),
        ("seen", lambda r: _time(r["confirmed_at_s"] or None)),
        ("failures", _field("failures")),
        ("error", _field("error")),
    ),
    "services": (
        ("mesh", _field("mesh")),
        ("service", _field("service")),
        ("instances", _field("instances")),
        ("connected", _field("connected")),
        ("identities", lambda r: ",".join(r["identities"])),
    ),
}
"""State that is not a resource: its path under /v1 and the columns of its table."""
_SINGULAR = {"proxy": "proxies", "certificate": "certificates"}


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@click.option("-n", "--namespace", help="Only this namespace.")
@click.option("-m", "--mesh", help="Only this mesh.")
@click.option(
    "--verify",
    is_flag=True,
    help="audit: check the whole chain; exit 1 if it was tampered with.",
)
@click.option("--kept", metavar="NUMBER:HASH", help="With --verify: the head of an earlier check.")
@config_option
@output_option
def get(
    *,
    kind: str,
    name: str | None,
    namespace: str | None,
    mesh: str | None,
    verify: bool,
    kept: str | None,
    config: Path | None,
    output: str,
) -> None:
    """Show resources of KIND, or one of them.

    \b
    Kinds: every kind that `limen apply` takes (any case, singular or plural; where two have one
    name, as networking.istio.io/Gateway), and proxies, services, plaintext (who still sends it),
    nodes, tokens, certificates, jwks, audit.

    \b
    Example:
      limen get proxies
      limen get trafficpermission items-callers -o yaml
      limen get audit -o json
      limen get audit --verify
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if verify or kept:
        _verify(kind, kept, config, output)
        return
    show(kind, name, namespace=namespace, mesh=mesh, config=config, output=output)


def _verify(kind: str, kept: str | None, config: Path | None, output: str) -> None:
    if kind.lower() != "audit":
        raise click.UsageError("--verify is for `limen get audit`")
    earlier = parse_head(kept) if kept else None
    try:
        with open_client(config) as client:
            head = verify_audit(client, earlier)
    except Untrusted as error:
        if error.code != TAMPERED:
            raise
        print(f"limen: {error.code}: {error}", file=sys.stderr)
        sys.exit(1)
    if output == "table":
        print(f"{head.seq} events, none changed, none missing; keep the head somewhere else:")
        print(f"{head.seq}:{head.hash}")
    else:
        print_data({"events": head.seq, "head": f"{head.seq}:{head.hash}"}, output)


def show(
    kind: str,
    name: str | None = None,
    *,
    namespace: str | None = None,
    mesh: str | None = None,
    config: Path | None,
    output: str,
) -> None:
    """Fetch and print."""
    lower = _SINGULAR.get(kind.lower(), kind.lower())
    state = lower if lower in STATE else f"{lower}s" if f"{lower}s" in STATE else None
    with open_client(config) as client:
        if state:
            rows = _pages(client, f"/v1/{state}", mesh=mesh, namespace=namespace, name=name)
            columns = STATE[state]
        else:
            path = f"/v1/resources/{quote(kind, safe='')}"
            if name:
                path += f"/{quote(name, safe='')}"
            answer = client.get(path, mesh=mesh, namespace=namespace)
            rows = [answer] if name else answer["items"]
            columns = _SECRET if lower in {"secret", "secrets"} else _RESOURCE
    if output == "table":
        print_table([c for c, _ in columns], [[value(r) for _, value in columns] for r in rows])
        if lower in {"mesh", "meshes"} and not any(r["name"] == DEFAULT_MESH for r in rows):
            note = "strict, and nobody may call anybody without a permission"
            print(f"mesh {DEFAULT_MESH} exists without a document: {note}", file=sys.stderr)
    else:
        documents = rows if state else [r["document"] for r in rows]
        print_data(documents[0] if name and len(documents) == 1 else documents, output)


def _pages(client: Client, path: str, **params: str | None) -> list[Row]:
    """A list whole, however many pages it has."""
    rows: list[Row] = []
    after: int | None = None
    while True:
        answer = client.get(path, after=after, **params)
        rows += answer["items"]
        after = answer.get("next")
        if after is None:
            return rows


def _origin(row: Row) -> str:
    """The file that it was written in, and the node that registered it."""
    parts = [f"{row['file']}:{row['line']}"] if row.get("file") else []
    registration = row.get("registration")
    if isinstance(registration, dict):
        parts.append(f"node {registration.get('node')}")
    return ", ".join(parts) or "-"


def _budget(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    hours, rest = divmod(int(value), 3600)
    return f"{hours}h{rest // 60:02}m" if hours else f"{rest // 60}m{rest % 60:02}s"


def _of_certificate(name: str) -> Callable[[Row], object]:
    return lambda row: (row.get("secret") or {}).get(name) or "-"


def _expiry(row: Row) -> str:
    ends = (row.get("secret") or {}).get("not_after_s")
    over = isinstance(ends, int | float) and ends <= datetime.now(UTC).timestamp()
    return f"{_time(ends)} EXPIRED" if over else _time(ends)


_SECRET: tuple[Column, ...] = (
    ("mesh", _field("mesh")),
    ("namespace", _field("namespace")),
    ("name", _field("name")),
    ("hosts", lambda r: ",".join((r.get("secret") or {}).get("names", ())) or "-"),
    ("key", _of_certificate("key")),
    ("expires", _expiry),
    ("sha256", lambda r: str(_of_certificate("fingerprint")(r))[:16]),
    ("from", _origin),
    ("refused since", _of_certificate("refused")),
)
_RESOURCE: tuple[Column, ...] = (
    ("kind", lambda r: str(r["kind"]).rpartition("/")[2]),
    ("mesh", _field("mesh")),
    ("namespace", _field("namespace")),
    ("name", _field("name")),
    ("revision", _field("revision")),
    ("from", _origin),
)
