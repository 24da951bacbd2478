"""Bytes of the discovery messages. Responses are put together from bodies, never rebuilt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NAME_BYTES = 1024
MAX_NAMES = 20_000


def parse_request(data: bytes) -> discovery_pb2.DeltaDiscoveryRequest:
    """Raises InvalidInput (`xds-protocol`) for anything that is not a usable request."""
    try:
        request = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
    except DecodeError as error:
        raise violation("the request is not a DeltaDiscoveryRequest") from error
    check_request(request)
    return request


def check_request(request: discovery_pb2.DeltaDiscoveryRequest) -> None:
    """Raises InvalidInput (`xds-protocol`) if the request is larger than any honest one."""
    names = [*request.resource_names_subscribe, *request.resource_names_unsubscribe]
    if len(names) > MAX_NAMES or len(request.initial_resource_versions) > MAX_NAMES:
        raise violation(f"more than {MAX_NAMES} names in one request")
    if any(len(name) > MAX_NAME_BYTES for name in names):
        raise violation(f"a resource name is longer than {MAX_NAME_BYTES} bytes")
    if request.resource_locators_subscribe or request.resource_locators_unsubscribe:
        raise violation("resource locators are not supported")


def build_response(
    type_url: str, nonce: str, bodies: Iterable[bytes], removed: Iterable[str], revision: str
) -> bytes:
    """A DeltaDiscoveryResponse around already serialised resources."""
    frame = discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=revision,
        type_url=type_url,
        nonce=nonce,
        removed_resources=removed,
    )
    return frame.SerializeToString() + b"".join(bodies)


def violation(message: str) -> InvalidInput:
    """The client broke the protocol: its stream is to be closed."""
    return InvalidInput(message, code="xds-protocol")
