"""What a refused caller reads: who refused, and how to find out why. Nothing about internals."""

from __future__ import annotations

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

from limen.core.envoy.access_log import denied, metadata_filter
from limen.core.envoy.wrapped import uint32


def inbound_denial(callee: str) -> hcm_pb2.LocalReplyConfig:
    """403 of a guarded port, naming callee and caller."""
    caller = "%DOWNSTREAM_PEER_URI_SAN%"
    text = f"{callee} refuses {caller}. Why: limen explain --from {caller} --to {callee}\n"
    return hcm_pb2.LocalReplyConfig(mappers=[_mapper(text)])


def guard_denial() -> hcm_pb2.LocalReplyConfig:
    """407 of the way out: the proxy's user and secret are missing or wrong (RFC 9110, 15.5.8)."""
    text = (
        "This way out belongs to one workload. Use the HTTP_PROXY that `limen run` gave the "
        "program.\n"
    )
    challenge = base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key="proxy-authenticate", value='Basic realm="limen"'),
        append_action="OVERWRITE_IF_EXISTS_OR_ADD",
    )
    mapper = _mapper(text)
    mapper.status_code.CopyFrom(uint32(407))
    mapper.headers_to_add.append(challenge)
    return hcm_pb2.LocalReplyConfig(mappers=[mapper])


def _mapper(text: str) -> hcm_pb2.ResponseMapper:
    return hcm_pb2.ResponseMapper(
        filter=accesslog_pb2.AccessLogFilter(metadata_filter=metadata_filter(denied())),
        body_format_override=plain_text(text),
    )


def plain_text(text: str) -> substitution_format_string_pb2.SubstitutionFormatString:
    """A body as plain text; command operators in it are filled in by Envoy."""
    return substitution_format_string_pb2.SubstitutionFormatString(
        text_format_source=base_pb2.DataSource(inline_string=text),
        content_type="text/plain; charset=utf-8",
    )
