"""The door of Envoy's `ext_authz` over gRPC, for proxies that are configured for it already.

Slower than HTTP in this language by an order of magnitude. The caller's identity is the principal
that Envoy took from the certificate. Obligations as at the HTTP door.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status

from limen.core.policy.engine import AccessRequest, HttpRequest
from limen.services.pdp.envoy import outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limen.services.pdp.doors import Doors
    from limen.services.pdp.judge import Judge

SERVICE, METHOD = "envoy.service.auth.v3.Authorization", "Check"
_OVERWRITE = HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
JWT_METADATA, JWT_PAYLOAD = "envoy.filters.http.jwt_authn", "payload"
_MAX_BYTES = 2 * 1024 * 1024


def check(
    judge: Judge, request: auth.CheckRequest, log: Callable[[str], None]
) -> auth.CheckResponse:
    """The response to Envoy."""
    asked = AccessRequest(http=held_request(request))
    found = outcome_of(judge.verdict(asked), log)
    if found.permitted:
        return auth.CheckResponse(
            status=Status(code=grpc.StatusCode.OK.value[0]),
            ok_response=auth.OkHttpResponse(
                headers=_options(found.headers),
                headers_to_remove=found.removed,
                response_headers_to_add=_options(found.response_headers),
            ),
        )
    return auth.CheckResponse(
        status=Status(code=grpc.StatusCode.PERMISSION_DENIED.value[0]),
        denied_response=auth.DeniedHttpResponse(
            status=HttpStatus(code=found.status),  # type: ignore[arg-type] # numbers of the enum
            headers=_options(found.headers),
            body=found.body.decode("utf-8", "replace"),
        ),
    )


def held_request(request: auth.CheckRequest) -> HttpRequest:
    """What the proxy holds, with its whole description for those who read it."""
    attributes = request.attributes
    http = attributes.request.http
    return HttpRequest(
        http.method,
        http.path,
        dict(http.headers),
        host=http.host,
        scheme=http.scheme,
        protocol=http.protocol,
        source=attributes.source.principal,
        destination=attributes.destination.principal,
        body=http.raw_body or http.body.encode() or None,
        attributes=MessageToDict(attributes),
        claims=_claims(request),
    )


def _claims(request: auth.CheckRequest) -> Mapping[str, Any] | None:
    """Of the token that `jwt_authn` verified, where its configuration writes them."""
    metadata = request.attributes.metadata_context.filter_metadata
    if JWT_METADATA not in metadata:
        return None
    found = MessageToDict(metadata[JWT_METADATA]).get(JWT_PAYLOAD)
    return found if isinstance(found, dict) else None


def _options(headers: Mapping[str, str]) -> list[HeaderValueOption]:
    return [
        HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=_OVERWRITE)
        for name, value in headers.items()
    ]


async def start(doors: Doors, address: str) -> grpc.aio.Server:
    """A running server on `unix:PATH` or an address of loopback.

    What `doors` have judges. Raises OSError if the address cannot be listened on.
    """

    async def handle(request: auth.CheckRequest, context: object) -> auth.CheckResponse:
        del context
        return await doors.judged(lambda judge: check(judge, request, doors.log))

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MAX_BYTES)])
    handler = grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=auth.CheckRequest.FromString,
        response_serializer=auth.CheckResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
    )
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise OSError(0, f"{address} is taken") from None
    await server.start()
    return server
