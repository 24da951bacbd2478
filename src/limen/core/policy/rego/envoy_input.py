"""The `input` document of a proxy's request, as users of `opa-envoy-plugin` know it.

Shape: `attributes` (an `envoy.service.auth.v3.AttributeContext` in JSON), `parsed_path`,
`parsed_query`, `parsed_body`, `truncated_body`, `version`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    import datetime as dt

    from limen.core.policy.engine import HttpRequest

_VERSION = {"encoding": "protojson", "ext_authz": "v3"}
_MAX_FIELDS = 1_000
_JWT = "envoy.filters.http.jwt_authn"
"""Where Envoy has what it verified; over gRPC it sends the same."""


def envoy_input(request: HttpRequest, now: dt.datetime) -> dict[str, Any]:
    """The document. Raises ValueError for a request that it cannot describe."""
    path, _, query = request.path.partition("?")  # not urlsplit: //a/b is no host and path here
    http: dict[str, Any] = {
        "method": request.method,
        "path": request.path,
        "host": request.host,
        "scheme": request.scheme,
        "protocol": request.protocol,
        "headers": dict(request.headers),
    }
    truncated = request.headers.get("x-envoy-auth-partial-body") == "true"
    if request.body is not None:
        http["body"] = request.body.decode("utf-8", "replace")
        http["size"] = str(len(request.body))
    attributes = request.attributes
    if attributes is None:
        attributes = {
            "request": {"time": now.isoformat().replace("+00:00", "Z"), "http": http},
            "source": {"principal": request.source} if request.source else {},
            "destination": {"principal": request.destination} if request.destination else {},
        }
        if request.claims is not None:
            token = {_JWT: {"payload": dict(request.claims)}}
            attributes = {**attributes, "metadataContext": {"filterMetadata": token}}
    document = {
        "attributes": attributes,
        "parsed_path": [unquote(part) for part in path.lstrip("/").split("/")],
        "parsed_query": parse_qs(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS),
        "truncated_body": truncated,
        "version": _VERSION,
    }
    body = None if truncated else _parsed_body(request)
    if body is not None:
        document["parsed_body"] = body
    return document


def _parsed_body(request: HttpRequest) -> Any:
    """The body as a value, of the two types that can be read; None: not there, or another type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not request.body:
        return None
    try:
        if kind == "application/json":
            return json.loads(request.body)
        if kind == "application/x-www-form-urlencoded":
            text = request.body.decode("utf-8")
            return parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except RecursionError:
        raise ValueError("the body nests too deeply") from None
    return None
