"""Kuma's tags: texts of a limited alphabet on inbounds, and selectors over them.

Source: kuma `pkg/core/resources/apis/mesh` (ValidateTags, ValidateSelectors).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, JsonValue, child, show
from limen.core.dialects.schema import Choice, Field, ListOf, MapOf, Struct, Text, check
from limen.core.model.names import parse_name
from limen.core.model.workload import PROTOCOL_TAG, SERVICE_TAG

if TYPE_CHECKING:
    from limen.core.model.permission import Tags

TAG_NAME = Text(
    "a tag's name", re.compile(r"[a-zA-Z0-9._:/-]+"), 1, 253, "use letters, digits and . _ - : /"
)
TAG_VALUE = Text(
    "a tag's value", re.compile(r"[a-zA-Z0-9._:-]+"), 1, 253, "use ASCII letters, digits, . _ - :"
)
SELECTOR_VALUE = Text(
    "a tag's value, or '*'",
    re.compile(r"[a-zA-Z0-9._:-]+|\*"),
    1,
    253,
    "use ASCII letters, digits and . _ - : or '*' alone for any value",
)
PROTOCOLS = Choice(
    ("http", "http2", "grpc", "tls"),
    {
        "tcp": "TCP is a later version; write http, http2 or grpc if the service speaks it",
        "kafka": "Kafka is a later version",
    },
)
_SERVICE = Text("a service", max_length=253, parse=lambda text: parse_name(text, "service"))


def check_service_tag(tags: JsonObject, path: str, out: Findings) -> None:
    """The tag `kuma.io/service` is there and is a usable name."""
    if SERVICE_TAG not in tags:
        out.error("missing-field", f"the tag {SERVICE_TAG} is missing", path, "name the service")
        return
    check(_SERVICE, tags[SERVICE_TAG], child(path, SERVICE_TAG), out)


def check_protocol_tag(tags: JsonObject, path: str, out: Findings) -> None:
    """The tag `kuma.io/protocol` is one that is supported."""
    if PROTOCOL_TAG in tags:
        check(PROTOCOLS, tags[PROTOCOL_TAG], child(path, PROTOCOL_TAG), out)
        return
    out.warn(
        "protocol-assumed",
        f"the tag {PROTOCOL_TAG} is missing; http is assumed (Kuma assumes tcp)",
        path,
        "write http, http2 or grpc",
    )


def _check_match(value: JsonObject, path: str, out: Findings) -> None:
    match = value["match"]
    service = match.get(SERVICE_TAG) if isinstance(match, dict) else None
    if service is not None and service != "*":
        check(_SERVICE, service, child(child(path, "match"), SERVICE_TAG), out)


SELECTORS = ListOf(
    Struct(
        {
            "match": Field(
                MapOf(TAG_NAME, SELECTOR_VALUE),
                required=True,
                note="write tags, like kuma.io/service: web",
            )
        },
        (_check_match,),
    )
)


def to_tags(value: JsonValue) -> Tags:
    """Sorted pairs of a checked mapping of texts."""
    if not isinstance(value, dict):
        raise TypeError(f"tags of {show(value)}")
    return tuple(sorted((key, str(item)) for key, item in value.items()))
