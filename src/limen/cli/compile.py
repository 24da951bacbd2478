"""`limen compile`: the xDS resources that a workload's Envoy would be sent, from files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from limen.cli.explain import print_findings
from limen.cli.files import load_files
from limen.cli.output import FORMATS, print_data, print_table
from limen.core.compiler.assume import ASSUMED_INSTANCE, assumed_dataplane, describe, undeclared
from limen.core.compiler.checks import check
from limen.core.compiler.edge.assumed import assumed_edge
from limen.core.compiler.explain import snapshot_lacks_mesh
from limen.core.compiler.graph import MeshGraph
from limen.core.envoy import names
from limen.core.envoy.endpoints import endpoints_resource
from limen.core.envoy.resources import node_resources, to_json
from limen.core.model.diagnostic import has_errors
from limen.core.model.names import InstanceName, parse_instance_name, parse_workload_name
from limen.core.plan.node import LocalSide
from limen.errors import NotFound

if TYPE_CHECKING:
    from limen.core.model.snapshot import Snapshot

ASSUMED_LOCAL = LocalSide(outbound_port=15001, pdp_socket="/run/limen/pdp.sock")
"""The way out is the agent's to choose; the port shown is a stand-in."""

HIDDEN = "hidden: sent to the gateway's own proxy only"
PLACEHOLDERS: dict[str, str] = {
    names.BUNDLE: "the mesh's trust bundle, from the server",
    names.SVID: "certificate and private key, made and kept by the agent",
    names.LOCAL_GUARD: "who may use the way out: a secret that only the agent knows",
}
"""Resources that files cannot hold, by name."""


@click.command("compile")
@click.option(
    "-f", "--file", "paths", multiple=True, required=True, metavar="PATH",
    help="File, directory, or - for standard input; repeatable.",
)  # fmt: skip
@click.option(
    "--workload", required=True, metavar="NAME",
    help="NAME, NAMESPACE/NAME or NAMESPACE/NAME/INSTANCE.",
)  # fmt: skip
@click.option("--mesh", default="default", show_default=True)
@click.option(
    "-o", "--output", type=click.Choice(FORMATS), default="json", show_default=True,
    help="table: names only.",
)  # fmt: skip
@click.pass_context
def compile_(
    context: click.Context, paths: tuple[str, ...], *, workload: str, mesh: str, output: str
) -> None:
    """Print the Envoy resources of one workload's proxy. No server needed.

    A workload that the files do not declare is assumed, as `limen explain` does, and standard
    error says so. Exit code 1 if the files have errors, 4 if mesh or instance do not exist.

    \b
    Example:
      limen compile -f policies/ --workload default/items -o json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    loaded = load_files(paths)
    findings = loaded.diagnostics
    if not has_errors(findings):
        findings += check(loaded.snapshot)
    print_findings(findings)
    if has_errors(findings):
        context.exit(1)
    graph, instance = _find(loaded.snapshot, workload, mesh)
    answer = compiled(graph, instance)
    if output == "table":
        kinds: dict[str, dict[str, Any]] = answer["resources"]
        rows = [(kind.rpartition(".")[2], name) for kind, found in kinds.items() for name in found]
        print_table(("type", "name"), rows)
    else:
        print_data(answer, output)


def _find(snapshot: Snapshot, text: str, mesh: str) -> tuple[MeshGraph, InstanceName]:
    """The mesh and the instance meant, the first by name if only the workload is named."""
    if snapshot_lacks_mesh(snapshot, mesh):
        raise NotFound(f"there is no mesh {mesh}", code="unknown-mesh")
    graph = MeshGraph(mesh, snapshot.resources.values())
    wanted = parse_instance_name(text, mesh) if text.count("/") == 2 else None
    workload = wanted.workload if wanted else parse_workload_name(text, mesh)
    instance = wanted.instance if wanted else ASSUMED_INSTANCE
    assumed, said = assumed_edge(graph, workload, instance)
    graph.update(assumed)
    for sentence in said:
        click.echo(f"note: {sentence}", err=True)
    missing = [w for w in undeclared(snapshot, mesh) if w not in graph.workloads]
    if workload not in graph.workloads:
        missing = [workload, *(w for w in missing if w.name != workload.name)]
    for each in missing:
        click.echo(f"note: {describe(each)}", err=True)
    graph.update(
        assumed_dataplane(w, instance=instance if w == workload else ASSUMED_INSTANCE)
        for w in missing
    )
    if wanted is not None:
        graph.resource(wanted)
        return graph, wanted
    return graph, min(graph.view.doors.registry.workloads[workload])


def without_key(secret: dict[str, Any]) -> dict[str, Any]:
    """A Secret as it is shown: its private key never is."""
    if "tls_certificate" not in secret:
        return secret
    shown = dict(secret["tls_certificate"])
    shown["private_key"] = HIDDEN
    return {**secret, "tls_certificate": shown}


def compiled(graph: MeshGraph, instance: InstanceName) -> dict[str, Any]:
    """All resources of an instance's proxy: type URL to name to the resource as JSON."""
    plan = graph.plan(instance, ASSUMED_LOCAL)
    resources = {
        kind: {name: to_json(encoded) for name, encoded in sorted(found.items())}
        for kind, found in node_resources(plan).items()
    }
    for name, hidden in resources.get(names.SECRET, {}).items():
        resources[names.SECRET][name] = without_key(hidden)
    loads = (endpoints_resource(graph.endpoints(edge.callee)) for edge in plan.edges)
    shared = {encoded.name: to_json(encoded) for encoded in loads}
    resources[names.ENDPOINTS] = {**resources.get(names.ENDPOINTS, {}), **shared}
    return {
        "instance": str(instance),
        "mesh": graph.mesh,
        "spiffe_id": str(plan.spiffe_id),
        "resources": resources,
        "placeholders": PLACEHOLDERS,
    }
