"""From a `Document` to a `Resource`: judge it against its schema, then convert it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.dialects.document import Document, Findings, JsonObject
from limen.core.dialects.envelope import parse_documents
from limen.core.dialects.fields import obj, text
from limen.core.dialects.gateway_api import to_gateway as to_kubernetes_gateway
from limen.core.dialects.gateway_api_references import to_reference_grant
from limen.core.dialects.gateway_api_routes import to_grpc_route, to_http_route, to_tls_route
from limen.core.dialects.istio_authorization import to_authorization_policy
from limen.core.dialects.istio_gateway import to_gateway as to_istio_gateway
from limen.core.dialects.istio_jwt import to_request_authentication
from limen.core.dialects.istio_peer import to_peer_authentication
from limen.core.dialects.istio_virtual_service import to_destination_rule, to_virtual_service
from limen.core.dialects.kinds import BY_NAME
from limen.core.dialects.kuma_dataplane import to_dataplane
from limen.core.dialects.kuma_mesh import to_mesh
from limen.core.dialects.kuma_permission import to_mesh_traffic_permission, to_traffic_permission
from limen.core.dialects.limen import to_cutover, to_mesh_settings
from limen.core.dialects.limen_policies import to_rego_policy, to_xacml_policy
from limen.core.dialects.limen_sources import to_attribute_source
from limen.core.dialects.limen_tokens import to_token_exchange_policy, to_trusted_issuer
from limen.core.dialects.limen_user_context import to_user_context
from limen.core.dialects.metadata import MESH_LABEL, NAMESPACE_LABEL, parse_timestamp
from limen.core.dialects.schema import check
from limen.core.dialects.secret import to_secret
from limen.core.dialects.tags import to_tags
from limen.core.model import resource
from limen.core.model.diagnostic import Diagnostic, Severity, has_errors
from limen.core.model.resource import Resource, ResourceKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def read_resources(
    data: bytes, file: str = ""
) -> tuple[tuple[Resource, ...], tuple[Document, ...], tuple[Diagnostic, ...]]:
    """All resources of one file that were understood in full, their documents, all findings.

    `resources[i]` was written as `documents[i]`. Never raises for any `data`.
    """
    documents, diagnostics = parse_documents(data, file)
    found = list(diagnostics)
    understood: list[tuple[Resource, Document]] = []
    for document in documents:
        one, findings = to_resource(document)
        found.extend(findings)
        if one is not None:
            understood.append((one, document))
    return tuple(r for r, _ in understood), tuple(d for _, d in understood), tuple(found)


def validate(document: Document) -> tuple[Diagnostic, ...]:
    """Every finding about one document, judged alone."""
    kind = BY_NAME[document.kind]
    findings = Findings(document.file, document.lines, document.shown)
    good = check(kind.schema, document.body, "", findings)
    if good and not kind.namespaced and "namespace" in obj(document.body, "metadata"):
        findings.warn(
            "namespace-no-effect",
            f"a {kind.short} belongs to a mesh; the namespace does not limit it",
            "/metadata/namespace",
            "remove it",
        )
    return (*document.problems, *findings.diagnostics)


def to_resource(document: Document) -> tuple[Resource | None, tuple[Diagnostic, ...]]:
    """The resource that `document` means, None if it is refused, and every finding about it."""
    findings = validate(document)
    return (None if has_errors(findings) else _convert(document)), findings


def duplicates(resources: Sequence[Resource]) -> Iterator[Diagnostic]:
    """An error for every resource that another one before it has the name of."""
    seen: dict[ResourceKey, Resource] = {}
    for one in resources:
        first = seen.setdefault(one.key, one)
        if first is not one:
            place = f"{first.origin.file or '-'}:{first.origin.line()}"
            yield Diagnostic(
                Severity.ERROR,
                "duplicate-resource",
                f"{one.key} is already defined at {place}",
                one.origin.file,
                one.origin.line(),
                hint="keep one of them, or rename one",
            )


def _convert(document: Document) -> Resource:
    """The resource of a checked document. Its mesh is in its key, not in its labels."""
    metadata = obj(document.body, "metadata")
    labels = {k: v for k, v in obj(metadata, "labels").items() if k != MESH_LABEL}
    return Resource(document.key, _spec(document, metadata), to_tags(labels), document.origin)


def _spec(document: Document, metadata: JsonObject) -> Any:
    """The spec of a checked document. Every kind of `kinds.KINDS` has its line."""
    key, spec = document.key, obj(document.body, "spec")
    match document.kind:
        case resource.MESH:
            return to_mesh(key.name, spec)
        case resource.DATAPLANE:
            return to_dataplane(key.name, key.mesh, key.namespace, metadata, spec)
        case resource.TRAFFIC_PERMISSION:
            return to_traffic_permission(spec, parse_timestamp(text(metadata, "creationTimestamp")))
        case resource.MESH_TRAFFIC_PERMISSION:
            return to_mesh_traffic_permission(spec, _stated_namespace(metadata))
        case resource.MESH_SETTINGS:
            return to_mesh_settings(spec)
        case resource.CUTOVER:
            return to_cutover(spec)
        case resource.SECRET:
            return to_secret(document.body)
        case _:
            return _NAMESPACED[document.kind](key.namespace, metadata, spec)


_NAMESPACED: dict[str, Callable[[str, JsonObject, JsonObject], Any]] = {
    resource.PEER_AUTHENTICATION: to_peer_authentication,
    resource.REQUEST_AUTHENTICATION: to_request_authentication,
    resource.AUTHORIZATION_POLICY: to_authorization_policy,
    resource.ISTIO_GATEWAY: to_istio_gateway,
    resource.VIRTUAL_SERVICE: to_virtual_service,
    resource.DESTINATION_RULE: to_destination_rule,
    resource.GATEWAY: to_kubernetes_gateway,
    resource.HTTP_ROUTE: to_http_route,
    resource.GRPC_ROUTE: to_grpc_route,
    resource.TLS_ROUTE: to_tls_route,
    resource.TRUSTED_ISSUER: lambda _namespace, _metadata, spec: to_trusted_issuer(spec),
    resource.TOKEN_EXCHANGE_POLICY: to_token_exchange_policy,
    resource.USER_CONTEXT: to_user_context,
    resource.XACML_POLICY: to_xacml_policy,
    resource.REGO_POLICY: to_rego_policy,
    resource.ATTRIBUTE_SOURCE: to_attribute_source,
    resource.REFERENCE_GRANT: lambda _namespace, _metadata, spec: to_reference_grant(spec),
}
"""From namespace, metadata and spec."""


def _stated_namespace(metadata: JsonObject) -> str:
    return text(metadata, "namespace") or text(obj(metadata, "labels"), NAMESPACE_LABEL)
