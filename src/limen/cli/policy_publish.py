"""`limen policy publish|history|diff|rollback`: policies of the decision point at a server."""

from __future__ import annotations

import difflib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from limen.adapters.policy_files import language_of, read_bounded, read_policies, read_rego
from limen.cli.apply import DEFAULT_WAIT_S
from limen.cli.client import config_option, open_client
from limen.cli.output import output_option, print_data, print_table
from limen.cli.yaml_text import to_yaml
from limen.core.model.names import DEFAULT_MESH, DEFAULT_NAMESPACE
from limen.core.policy.rego.source import MAX_DATA_BYTES
from limen.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limen.cli.client import Client

_KINDS = ("XacmlPolicy", "RegoPolicy")
_PATH = click.Path(path_type=Path)


def _place(command: Callable[..., None]) -> Callable[..., None]:
    """Where a policy is: its namespace and mesh, at which server."""
    namespace = click.option("-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True)
    mesh = click.option("-m", "--mesh", default=DEFAULT_MESH, show_default=True)
    return namespace(mesh(config_option(command)))


def _kind(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--kind",
        type=click.Choice(_KINDS, case_sensitive=False),
        help="Where an XacmlPolicy and a RegoPolicy have one name.",
    )(command)


@click.command()
@click.argument("name")
@click.option(
    "--policy", "policies", multiple=True, required=True, type=_PATH, metavar="PATH",
    help="Policy file, or directory of .xml or .rego files; repeatable.",
)  # fmt: skip
@click.option(
    "--root", metavar="ID", help="The policy to begin with; in Rego the decision, as PACKAGE/RULE."
)
@click.option(
    "--data", multiple=True, type=_PATH, metavar="FILE", help="Data document of Rego, JSON."
)
@click.option("--enforced-at", type=click.Choice(("Service", "Gateway")), help="Else Service.")
@click.option("--on-stale", type=click.Choice(("Refuse", "Keep")), help="Else Refuse.")
@click.option("--wait", is_flag=True, help="Return when every subscriber decides by it.")
@click.option("--timeout", default=DEFAULT_WAIT_S, show_default=True, help="Seconds for --wait.")
@_place
def publish(
    *,
    name: str,
    policies: tuple[Path, ...],
    root: str | None,
    data: tuple[Path, ...],
    enforced_at: str | None,
    on_stale: str | None,
    wait: bool,
    timeout: float,
    namespace: str,
    mesh: str,
    config: Path | None,
) -> None:
    """Send the policy NAME, made of files, to everybody who decides by it.

    Exit code 1: with --wait, somebody does not decide by it yet; each is named.

    \b
    Example:
      limen policy publish records -n health --policy policies/ --root records --wait
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    kind, spec = _spec(policies, data)
    own = {"root": root, "enforcedAt": enforced_at, "onStale": on_stale}
    spec |= {field: value for field, value in own.items() if value is not None}
    body = _document(kind, name, namespace, mesh, spec)
    with open_client(config) as client:
        _publish(client, body, timeout if wait else None)


def _publish(client: Client, body: dict[str, Any], wait_s: float | None) -> None:
    name = body["metadata"]["name"]
    files = [{"name": name, "text": to_yaml(body)}]
    answer = client.post("/v1/apply", {"files": files, "dry_run": False}, timeout_s=120)
    result = answer["results"][0]
    where = _Where(client, body["kind"], result["mesh"], result["namespace"], name)
    epoch = where.history()[-1]["epoch"]
    print(f"{where}: {result['result']}, epoch {epoch}")
    if wait_s is None:
        return
    found = where.ask("/subscribers", wait_s=int(wait_s), timeout_s=wait_s + 30)
    print(f"{found['enforced']} of {found['total']} subscribers decide by it")
    for missing in found["missing"]:
        print(f"  {missing['instance']}: {missing['why']}")
    if found["missing"]:
        sys.exit(1)


@click.command()
@click.argument("name")
@_kind
@_place
@output_option
def history(
    *, name: str, kind: str | None, namespace: str, mesh: str, config: Path | None, output: str
) -> None:
    """Print the publishes of policy NAME: epoch, author, time.

    \b
    Example:
      limen policy history records -n health
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    with open_client(config) as client:
        items = _find(client, name, kind, mesh, namespace).history()
    if output != "table":
        print_data({"items": items}, output)
        return
    rows = [
        (
            str(item["epoch"]),
            item["author"],
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(item["time_s"])),
            "deleted" if item["deleted"] else "",
        )
        for item in items
    ]
    print_table(("epoch", "author", "time", ""), rows)


@click.command()
@click.argument("name")
@click.argument("first", type=int, required=False)
@click.argument("second", type=int, required=False)
@_kind
@_place
def diff(
    *,
    name: str,
    first: int | None,
    second: int | None,
    kind: str | None,
    namespace: str,
    mesh: str,
    config: Path | None,
) -> None:
    """Print what differs between two publishes of policy NAME.

    Without SECOND, the newest; without FIRST, the one before it.

    \b
    Example:
      limen policy diff records 3 5 -n health
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    with open_client(config) as client:
        where = _find(client, name, kind, mesh, namespace)
        newest = where.history()[-1]["epoch"]
        after = newest if second is None else second
        before = after - 1 if first is None else first
        old, new = where.texts(before) if before else {}, where.texts(after)
    for file in sorted(old.keys() | new.keys()):
        lines = difflib.unified_diff(
            old.get(file, "").splitlines(),
            new.get(file, "").splitlines(),
            f"{file} (epoch {before})",
            f"{file} (epoch {after})",
            lineterm="",
        )
        for line in lines:
            print(line)


@click.command()
@click.argument("name")
@click.argument("epoch", type=int, required=False)
@click.option("--wait", is_flag=True, help="Return when every subscriber decides by it.")
@click.option("--timeout", default=DEFAULT_WAIT_S, show_default=True, help="Seconds for --wait.")
@_kind
@_place
def rollback(
    *,
    name: str,
    epoch: int | None,
    wait: bool,
    timeout: float,
    kind: str | None,
    namespace: str,
    mesh: str,
    config: Path | None,
) -> None:
    """Publish policy NAME again as it was at EPOCH; without it, as it was before the newest.

    It is tried out as any other and gets an epoch of its own.

    \b
    Example:
      limen policy rollback records 3 -n health --wait
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    with open_client(config) as client:
        where = _find(client, name, kind, mesh, namespace)
        wanted = epoch if epoch is not None else where.history()[-1]["epoch"] - 1
        _publish(client, where.document(wanted), timeout if wait else None)


class _Where:
    """One policy at a server."""

    def __init__(self, client: Client, kind: str, mesh: str, namespace: str, name: str) -> None:
        self._client = client
        self._place = {"mesh": mesh, "namespace": namespace}
        self._path = f"/v1/policies/{kind.lower()}/{quote(name, safe='')}"
        self._text = f"{kind} {namespace}/{name}"

    def __str__(self) -> str:
        return self._text

    def ask(self, path: str, *, timeout_s: float = 30.0, **params: int) -> dict[str, Any]:
        """What the API says of it."""
        found: dict[str, Any] = self._client.wait(
            f"{self._path}{path}", timeout_s, **self._place, **params
        )
        return found

    def exists(self) -> bool:
        """Whether it was ever published."""
        try:
            self.history()
        except NotFound:
            return False
        return True

    def history(self) -> list[dict[str, Any]]:
        """Its publishes, oldest first; one at least."""
        found: list[dict[str, Any]] = self.ask("/history")["items"]
        return found

    def document(self, epoch: int) -> dict[str, Any]:
        """The policy as it was published. Raises InvalidInput if it was deleted then."""
        found: dict[str, Any] | None = self.ask(f"/history/{epoch}")["document"]
        if found is None:
            raise InvalidInput(
                f"{self} was deleted at epoch {epoch}",
                code="policy-deleted",
                hint="`limen policy history` lists the publishes",
            )
        return found

    def texts(self, epoch: int) -> dict[str, str]:
        """Its files, and what else its spec says, as texts to compare."""
        document = self.ask(f"/history/{epoch}")["document"]
        spec = dict(document["spec"]) if document else {}
        found: dict[str, str] = {}
        for field in ("policies", "modules", "data"):
            for one in spec.pop(field, []):
                content = next(value for name, value in one.items() if name != "name")
                found[one["name"]] = content
        return {**found, "spec": to_yaml(spec) if spec else ""}


def _find(client: Client, name: str, kind: str | None, mesh: str, namespace: str) -> _Where:
    """The policy that is meant: of the kind given, or of the only one that has it."""
    known = {k.lower(): k for k in _KINDS}
    if kind is not None:
        return _Where(client, known[kind.lower()], mesh, namespace, name)
    found = [
        one for one in (_Where(client, k, mesh, namespace, name) for k in _KINDS) if one.exists()
    ]
    if len(found) > 1:
        message = f"there are an XacmlPolicy and a RegoPolicy {namespace}/{name}"
        raise InvalidInput(message, code="ambiguous-policy", hint="say which with --kind")
    return found[0] if found else _Where(client, _KINDS[0], mesh, namespace, name)


def _document(
    kind: str, name: str, namespace: str, mesh: str, spec: dict[str, Any]
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"kuma.io/mesh": mesh}}
    return {"apiVersion": "limen.dev/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _spec(policies: Sequence[Path], data: Sequence[Path]) -> tuple[str, dict[str, Any]]:
    """Kind and texts of a document made of files."""
    if language_of(policies) == "xacml":
        if data:
            raise click.UsageError("--data is for Rego policies")
        files = [(f.path, _text(f.path, f.document)) for f in read_policies(policies)]
        return "XacmlPolicy", {"policies": [{"name": _name(p), "xml": t} for p, t in files]}
    modules = [{"name": _name(m.file), "rego": m.text} for m in read_rego(policies)]
    spec: dict[str, Any] = {"modules": modules}
    if data:
        spec["data"] = [
            {"name": _name(str(path)), "json": _text(str(path), read_bounded(path, MAX_DATA_BYTES))}
            for path in data
        ]
    return "RegoPolicy", spec


def _name(path: str) -> str:
    """A path as the name of a text: relative, without dots."""
    return "/".join(part for part in Path(path).parts if part not in ("/", ".", ".."))


def _text(path: str, document: bytes) -> str:
    try:
        return document.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not UTF-8 text", code="not-utf8") from None
