"""The way from a node to its server: gRPC over mutual TLS, JSON payloads, and the ADS stream.

Maps gRPC status to the error tree; retries belong to the callers.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from limen.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LimenError,
    NotFound,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    from limen.services.agent.node_identity import NodeIdentity

NODE_SERVICE = "limen.node.v1.Node"
DELTA_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_MAX_MESSAGE = 64 * 1024 * 1024
_TIMEOUT_S = 10.0
_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_OTHER_AUTHORITY = (
    "the server there shows another authority than the one that this host joined: if it was made "
    "anew, remove this agent's state (--state) and join with a new token"
)
_ERRORS: dict[grpc.StatusCode, type[LimenError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidInput,
    grpc.StatusCode.UNIMPLEMENTED: InvalidInput,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
}


def _encode(payload: dict[str, Any]) -> bytes:
    return json.dumps(payload, separators=(",", ":")).encode()


def _decode(raw: bytes) -> dict[str, Any]:
    value = json.loads(raw)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - gRPC reports it as a broken answer
    return value


class NodeLink:
    """A channel with the node's certificate; replaced when the certificate is renewed."""

    def __init__(self, node: NodeIdentity) -> None:
        self.node = node
        self._channel = _open_channel(node)
        self._heard_s = time.monotonic()

    @property
    def silent_s(self) -> float:
        """How long ago the server last answered a call, whatever it said."""
        return time.monotonic() - self._heard_s

    async def replace(self, node: NodeIdentity) -> None:
        """Use a new certificate for new calls; calls under way end with the old channel."""
        old, self._channel, self.node = self._channel, _open_channel(node), node
        await old.close(grace=1.0)

    async def close(self) -> None:
        """End every call."""
        await self._channel.close(None)

    async def call(
        self, method: str, payload: dict[str, Any], timeout_s: float = _TIMEOUT_S
    ) -> dict[str, Any]:
        """One call to the node service. Raises a LimenError by the answer's status."""
        invoke = self._channel.unary_unary(
            f"/{NODE_SERVICE}/{method}", request_serializer=_encode, response_deserializer=_decode
        )
        try:
            answer: dict[str, Any] = await invoke(payload, timeout=timeout_s)
        except aio.AioRpcError as error:
            found = to_error(error, method)
            if not isinstance(found, Unavailable):
                self._heard_s = time.monotonic()
            raise found from None
        except aio.UsageError as error:
            raise Unavailable("the connection to the server was just replaced") from error
        self._heard_s = time.monotonic()
        return answer

    def open_stream(self) -> aio.StreamStreamCall[bytes, bytes]:
        """A delta ADS stream of serialised requests and responses."""
        open_ = self._channel.stream_stream(
            DELTA_METHOD, request_serializer=bytes, response_deserializer=bytes
        )
        return open_(None)


def to_error(error: aio.AioRpcError, what: str) -> LimenError:
    """The error of our tree for a failed call."""
    kind = _ERRORS.get(error.code(), Unavailable)
    message = error.details() or error.code().name
    if kind is Unavailable:
        message = _parse_details(message)[1]
        strange = "CERTIFICATE_VERIFY_FAILED" in message
        return Unavailable(
            f"the server cannot be reached ({what}): {message}",
            code="server-unreachable",
            hint=_OTHER_AUTHORITY if strange else "the agent tries again by itself",
        )
    code, text, hint = _parse_details(message)
    return kind(text, code=code or kind.code, hint=hint)


def _parse_details(details: str) -> tuple[str, str, str]:
    """Code, message and hint of a refusal: JSON, or `code: message`, or just a message."""
    try:
        found = json.loads(details)
    except ValueError:
        found = None
    if isinstance(found, dict):
        code, text, hint = (str(found.get(key) or "") for key in ("code", "message", "hint"))
        return code, text, hint
    code, _, text = details.partition(": ")
    if text and code.replace("-", "").isalnum() and code.islower():
        return code, text, ""
    return "", details, ""


def _open_channel(node: NodeIdentity) -> aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        root_certificates=node.control_bundle_pem.encode(),
        private_key=node.key_pem.encode(),
        certificate_chain=node.certificate_pem.encode(),
    )
    return aio.secure_channel(node.node_address, credentials, options=_OPTIONS)
