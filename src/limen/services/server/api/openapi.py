"""The API's description: what FastAPI finds, and which calls need a credential."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi

from limen.services.server.api.guard import OPEN

if TYPE_CHECKING:
    from fastapi import FastAPI

BEARER = "bearer"


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document (made once): a bearer token everywhere but for what the guard opens."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemes = {BEARER: {"type": "http", "scheme": "bearer"}}
        found["components"]["securitySchemes"] = schemes
        found["security"] = [{BEARER: []}]
        for method, path in OPEN:
            operation = found["paths"].get(path, {}).get(method.lower())
            if operation is not None:
                operation["security"] = []
        app.openapi_schema = found
    return app.openapi_schema
