"""What handlers ask for by type: the server's parts, and who calls."""

from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from limen.errors import Unauthenticated
from limen.services.server.access import Who
from limen.services.server.control import Control


def control_of(connection: HTTPConnection) -> Control:
    """The server's parts."""
    return cast("Control", connection.app.state.control)


def who_of(connection: HTTPConnection) -> Who:
    """The caller whom the guard authenticated. Raises Unauthenticated if it did not."""
    who = getattr(connection.state, "who", None)
    if not isinstance(who, Who):
        raise Unauthenticated("this call needs a bearer token")
    return who


Parts = Annotated[Control, Depends(control_of)]
Caller = Annotated[Who, Depends(who_of)]
