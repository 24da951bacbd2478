"""The user context in gRPC, both ways, for `grpc` and `grpc.aio`.

grpc.server(pool, interceptors=[UserContextInterceptor()])
grpc.aio.server(interceptors=[AioUserContextInterceptor()])
grpc.intercept_channel(channel, ContextClientInterceptor())
grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors())
"""

from __future__ import annotations

import inspect
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc import aio

from limen.sdk.context import CONTEXT_HEADER, AccessRefused, current, read_context, use

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from limen.sdk.context import UserContext

__all__ = [
    "AioUserContextInterceptor",
    "ContextClientInterceptor",
    "UserContextInterceptor",
    "aio_client_interceptors",
]

_END = object()
_CODES = {401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED}


class UserContextInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Sets the user for each call of a `grpc.server`; `require` ends it with gRPC's own codes."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """See `grpc.ServerInterceptor`."""
        handler = continuation(handler_call_details)
        return None if handler is None else _wrapped(handler, _unary, _stream)


class AioUserContextInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]
    """The same for a `grpc.aio.server`."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        return None if handler is None else _wrapped(handler, _aio_unary, _aio_stream)


def _wrapped(handler: Any, unary: Any, stream: Any) -> Any:
    """The handler, its behaviour run with the user of the call."""
    make = {
        (False, False): (grpc.unary_unary_rpc_method_handler, unary, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, stream, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, unary, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, stream, handler.stream_stream),
    }
    build, wrap, behaviour = make[handler.request_streaming, handler.response_streaming]
    return build(
        wrap(behaviour),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _user_of(context: Any) -> UserContext | None:
    """The user in a call's metadata, whose names gRPC writes in lower case."""
    metadata = context.invocation_metadata() or ()
    return read_context((str(name), str(value)) for name, value in metadata)


def _unary(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def call(request: Any, context: Any) -> Any:
        try:
            with use(_user_of(context)):
                return behaviour(request, context)
        except AccessRefused as refused:
            context.abort(_CODES[refused.status], refused.reason)

    return call


def _stream(behaviour: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, Any], Iterator[Any]]:
    """Each step may run in another thread: a context of its own goes with the call."""

    def call(request: Any, context: Any) -> Iterator[Any]:
        try:
            with use(_user_of(context)):
                carried = copy_context()
            responses = carried.run(lambda: iter(behaviour(request, context)))
            while (item := carried.run(next, responses, _END)) is not _END:
                yield item
        except AccessRefused as refused:
            context.abort(_CODES[refused.status], refused.reason)

    return call


def _aio_unary(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        try:
            with use(_user_of(context)):
                result = behaviour(request, context)
                return await result if inspect.isawaitable(result) else result
        except AccessRefused as refused:
            await context.abort(_CODES[refused.status], refused.reason)

    return call


def _aio_stream(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """Both forms of `grpc.aio`: an asynchronous generator, or a coroutine that writes itself."""

    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            with use(_user_of(context)):
                responses = behaviour(request, context)
                if inspect.isawaitable(responses):
                    await responses
                    return
                async for item in responses:
                    yield item
        except AccessRefused as refused:
            await context.abort(_CODES[refused.status], refused.reason)

    return call


class _Details(NamedTuple):
    method: Any
    timeout: Any
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any = None


def _attached(details: Any) -> list[tuple[str, Any]]:
    """The call's metadata with the current user's token, and with nobody else's."""
    kept = [(n, v) for n, v in details.metadata or () if n.lower() != CONTEXT_HEADER]
    user = current()
    return kept if user is None else [*kept, (CONTEXT_HEADER, user.token)]


class ContextClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg] # in stubs only
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg] # in stubs only
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg] # in stubs only
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg] # in stubs only
):
    """Attaches the current user to every call of a channel into the mesh."""

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """See grpc."""
        return continuation(_with_user(client_call_details), request)

    intercept_unary_stream = intercept_unary_unary

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """See grpc."""
        return continuation(_with_user(client_call_details), request_iterator)

    intercept_stream_stream = intercept_stream_unary


def _with_user(details: Any) -> Any:
    return _Details(
        details.method,
        details.timeout,
        _attached(details),
        details.credentials,
        details.wait_for_ready,
        details.compression,
    )


def aio_client_interceptors() -> list[Any]:
    """For `grpc.aio.insecure_channel(..., interceptors=...)`: one of each kind of call.

    `grpc.aio` sorts an interceptor by its first kind only.
    """
    return [_AioUnaryUnary(), _AioUnaryStream(), _AioStreamUnary(), _AioStreamStream()]


def _aio_with_user(details: Any) -> aio.ClientCallDetails:
    return aio.ClientCallDetails(
        details.method,
        details.timeout,
        aio.Metadata(*_attached(details)),
        details.credentials,
        details.wait_for_ready,
    )


class _AioUnaryUnary(aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg] # in stubs only
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(_aio_with_user(client_call_details), request)


class _AioUnaryStream(aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg] # in stubs only
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(_aio_with_user(client_call_details), request)


class _AioStreamUnary(aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg] # in stubs only
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(_aio_with_user(client_call_details), request_iterator)


class _AioStreamStream(aio.StreamStreamClientInterceptor):  # type: ignore[type-arg] # in stubs only
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(_aio_with_user(client_call_details), request_iterator)
