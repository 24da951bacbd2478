"""RPC plumbing: every method of every shape passes the same check, and the error tree as status.

`GuardedService` is the only generic handler that the server registers. It wraps a method by its
shape, so that a shape without authentication cannot be added by mistake.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from limen.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LimenError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Untrusted,
)

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from limen.adapters.store import JsonValue
    from limen.services.server.joining import Node

    Context = ServicerContext[Any, Any]

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_CONFIGURATION_BYTES = 64 * 1024 * 1024
"""What an agent takes at once; a set of policies comes in one message."""
_log = logging.getLogger("limen.node")

STATUS: tuple[tuple[type[LimenError], grpc.StatusCode], ...] = (
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Untrusted, grpc.StatusCode.PERMISSION_DENIED),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.ALREADY_EXISTS),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (LimenError, grpc.StatusCode.INTERNAL),
)

Call = Callable[["Node", Mapping[str, "JsonValue"]], Awaitable[Mapping[str, "JsonValue"]]]
Stream = Callable[["Node", AsyncIterator[bytes], "Context"], AsyncIterator[bytes]]
Authenticate = Callable[["Context"], Awaitable["Node"]]


@dataclass(frozen=True, slots=True)
class Method:
    """A method: exactly one of `call` (unary, JSON) and `stream` (both ways, raw bytes)."""

    path: str
    call: Call | None = None
    stream: Stream | None = None


class GuardedService(grpc.GenericRpcHandler):  # type: ignore[type-arg] # not generic at run time
    """Serves `methods`; each first learns from `authenticate` which node calls."""

    def __init__(self, methods: tuple[Method, ...], authenticate: Authenticate) -> None:
        self._authenticate = authenticate
        self.methods = {m.path: self._handler(m) for m in methods}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The wrapped handler of a method, None if there is no such method."""
        return self.methods.get(handler_call_details.method)

    def _handler(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        if method.call is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(method.call))
        if method.stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._stream(method.stream))
        raise AssertionError(f"{method.path} has no behaviour")

    def _unary(self, call: Call) -> Any:
        async def serve(request: bytes, context: Context) -> bytes:
            node: Node | None = None
            try:
                node = await self._authenticate(context)
                answer = await call(node, parse_object(request))
            except LimenError as error:
                await _abort(context, node, error)
            return json.dumps(answer).encode()

        return serve

    def _stream(self, stream: Stream) -> Any:
        async def serve(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            node: Node | None = None
            try:
                node = await self._authenticate(context)
                async for reply in stream(node, requests, context):
                    yield reply
            except LimenError as error:
                await _abort(context, node, error)

        return serve


def parse_object(data: bytes) -> Mapping[str, JsonValue]:
    """A JSON object without duplicate keys and NaN. Raises InvalidInput (`invalid-json`)."""
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInput("the message is not a JSON object", code="invalid-json")
    return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def status_of(error: LimenError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return next(status for kind, status in STATUS if isinstance(error, kind))


async def _abort(context: Context, node: Node | None, error: LimenError) -> None:
    who = {"node": node.node_id if node else "", "peer": context.peer()}
    fields = {**who, "code": error.code, "message": error.message}
    _log.warning("node call refused", extra={"fields": fields})
    details = json.dumps({"code": error.code, "message": error.message, "hint": error.hint})
    await context.abort(status_of(error), details)
