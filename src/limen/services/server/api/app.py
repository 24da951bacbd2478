"""The application: routers, errors, the guard around it all."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from limen import __version__
from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.rate import RateLimit
from limen.errors import InvalidInput, LimenError, NotFound
from limen.services.server.api import (
    evidence,
    explaining,
    joining,
    operators,
    policies,
    resources,
    roles,
    state,
)
from limen.services.server.api.errors import error_to_json, status_of
from limen.services.server.api.guard import Guard
from limen.services.server.api.models import ErrorAnswer
from limen.services.server.api.openapi import describe

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from limen.services.server.control import Control
    from limen.services.server.credentials import Credentials

_log = logging.getLogger("limen.api")
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer} for code in (400, 401, 403, 404, 409, 410, 413, 429, 500, 503)
}


def build_app(control: Control | None) -> FastAPI:
    """The routes, without the guard. `control` None: for the OpenAPI description only."""
    app = FastAPI(
        title="Limen",
        version=__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
        redirect_slashes=False,
    )
    app.state.control = control
    app.openapi = lambda: describe(app)  # type: ignore[method-assign] # FastAPI's way to extend it
    limit = RateLimit(joining.JOINS_PER_S, joining.JOIN_BURST)
    for router in (
        resources.router,
        explaining.router,
        state.router,
        joining.join_router(limit),
        joining.router,
        evidence.router,
        policies.router,
        operators.router,
        roles.router,
    ):
        app.include_router(router)
    app.add_exception_handler(LimenError, _limen_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
    return app


def build_guarded(control: Control, credentials: Credentials) -> Guard:
    """What is served."""
    return Guard(
        build_app(control),
        credentials=credentials,
        metrics=control.metrics,
        body_cap_bytes=control.settings.body_cap_bytes,
        body_timeout_s=control.settings.request_timeout_s,
    )


def _answer(error: LimenError, status: int | None = None) -> Response:
    return JSONResponse(error_to_json(error), status or status_of(error))


async def _limen_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, LimenError):
        raise error
    control: Control = request.app.state.control
    control.metrics.denials.labels(code=error.code).inc()
    return _answer(error)


async def _invalid_request(request: Request, error: Exception) -> Response:
    del request
    found = error.errors() if isinstance(error, RequestValidationError) else []
    diagnostics = [
        Diagnostic(
            Severity.ERROR,
            "invalid-request",
            str(e["msg"]),
            path="/" + "/".join(str(part) for part in e["loc"]),
        )
        for e in found
    ]
    return _answer(
        InvalidInput("the request is malformed", code="invalid-request", diagnostics=diagnostics)
    )


async def _http_error(request: Request, error: Exception) -> Response:
    del request
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return _answer(NotFound("there is no such path", hint="see /v1/openapi.json"))
    return _answer(InvalidInput("the request is not possible", code=f"http-{status}"), status)


async def _fault(request: Request, error: Exception) -> Response:
    """A fault of ours: logged whole, told in short."""
    _log.error("fault", exc_info=error, extra={"fields": {"path": request.url.path[:200]}})
    return _answer(
        LimenError("the server made a mistake", code="internal", hint="its log says which"), 500
    )
