"""The operator's way to a server: a client file, and HTTPS that trusts only the CA in it."""

from __future__ import annotations

import json
import os
import ssl
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click
import httpx

from limen.core.model.diagnostic import Diagnostic, Severity
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
    from collections.abc import Callable, Mapping

DEFAULT_PATH = Path("~/.config/limen/client.json")
SERVER_PATH = Path("~/.local/share/limen/server/client.json")
"""What a server with the usual data directory wrote, on its own host and for its own user."""
_BY_STATUS: dict[int, type[LimenError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Conflict,
    429: Unavailable,
    503: Unavailable,
}

F = TypeVar("F", bound="Callable[..., Any]")


def config_option(function: F) -> F:
    """The option `--config FILE` of every command that talks to a server (argument `config`)."""
    option = click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="LIMEN_CONFIG",
        help="Client file of the server. Default: LIMEN_CONFIG, ~/.config/limen/client.json, "
        "else what a server of this user wrote on this host.",
    )
    return option(function)


@dataclass(frozen=True, slots=True)
class ClientFile:
    """Where the server is, which authority vouches for it, and who we are."""

    server: str
    ca_pem: str
    token: str = field(repr=False)


def client_path(path: Path | None) -> Path:
    """The client file: `path`, else the usual place, else that of this user's own server."""
    where = (path or DEFAULT_PATH).expanduser()
    if path is None and not where.exists() and SERVER_PATH.expanduser().exists():
        where = SERVER_PATH.expanduser()
    return where


def load_client_file(path: Path | None) -> ClientFile:
    """Read the client file (`client_path`).

    Raises NotFound, Untrusted (others may read it), InvalidInput.
    """
    where = client_path(path)
    try:
        mode = stat.S_IMODE(where.stat().st_mode)
        text = where.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(
            f"there is no client file at {where}",
            code="no-client-file",
            hint="`limen server run` prints where it wrote one: pass it as --config FILE or "
            "set LIMEN_CONFIG",
        ) from None
    except OSError as error:
        raise InvalidInput(f"cannot read {where}: {error.strerror}") from error
    if mode & 0o077:
        raise Untrusted(
            f"others may read {where} (mode {mode:04o}); it holds a credential",
            code="client-file-mode",
            hint=f"chmod 600 {where}",
        )
    return _parse_client_file(text, where)


def save_client_file(path: Path, file: ClientFile) -> None:
    """Replace the client file, 0600 from the first byte, whole or not at all."""
    value = {"server": file.server, "ca_pem": file.ca_pem, "token": file.token}
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump(value, out, indent=2)
            out.write("\n")
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _parse_client_file(text: str, where: Path) -> ClientFile:
    try:
        value = json.loads(text)
        fields = [value[name] for name in ("server", "ca_pem", "token")]
    except (ValueError, TypeError, KeyError):
        fields = []
    if not fields or not all(isinstance(f, str) and f for f in fields):
        raise InvalidInput(f"{where} is not a client file: it needs server, ca_pem and token")
    if not fields[0].startswith("https://"):
        raise InvalidInput(f"{where}: the server's address must begin with https://")
    return ClientFile(*fields)


class Client:
    """Calls one server. Use as a context manager. Every failure is a `LimenError`."""

    def __init__(self, file: ClientFile, *, timeout_s: float = 30.0) -> None:
        """Trusts `file.ca_pem` and nothing else; ignores proxy settings of the environment."""
        self.server = file.server
        try:
            context = ssl.create_default_context(cadata=file.ca_pem)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInput("the client file's ca_pem is not a certificate") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._http = httpx.Client(
            base_url=file.server,
            verify=context,
            headers={"authorization": f"Bearer {file.token}"},
            timeout=timeout_s,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int | None) -> Any:
        """GET; the parsed JSON."""
        return self._call("GET", path, params=_present(params))

    def wait(self, path: str, timeout_s: float, **params: str | int | None) -> Any:
        """GET of what may take a while; the parsed JSON."""
        return self._call("GET", path, params=_present(params), timeout_s=timeout_s)

    def post(self, path: str, body: Mapping[str, object], *, timeout_s: float | None = None) -> Any:
        """POST JSON; the parsed answer."""
        return self._call("POST", path, body=body, timeout_s=timeout_s)

    def delete(self, path: str, **params: str | int | None) -> Any:
        """DELETE; the parsed answer."""
        return self._call("DELETE", path, params=_present(params))

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s)
        try:
            answer = self._http.request(method, path, params=params, json=body, timeout=timeout)
        except httpx.TimeoutException as error:
            raise Unavailable(f"{self.server} did not answer in time", code="timeout") from error
        except httpx.TransportError as error:
            raise _transport_error(self.server, error) from error
        if answer.is_success:
            return answer.json() if answer.content else None
        raise _error_of(answer)


def open_client(config: Path | None) -> Client:
    """A client for the server of the client file."""
    return Client(load_client_file(config))


def _present(params: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {key: value for key, value in params.items() if value is not None}


def _transport_error(server: str, error: httpx.TransportError) -> LimenError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return Untrusted(
            f"{server} is not the server of this client file",
            code="wrong-server",
            hint="its certificate is not from the authority in ca_pem; take the client file of "
            "this server, and do not go on if you did not expect this",
        )
    return Unavailable(
        f"cannot reach {server}", code="unreachable", hint="is `limen server run` running there?"
    )


def _error_of(answer: httpx.Response) -> LimenError:
    """The error that the server answered with."""
    kind = _BY_STATUS.get(answer.status_code, LimenError)
    try:
        value = answer.json()
        message, code, hint = (str(value.get(k, "")) for k in ("message", "code", "hint"))
        found = tuple(_diagnostic(d) for d in value.get("diagnostics", ()))
    except (ValueError, AttributeError, TypeError, KeyError):
        return kind(f"the server answered {answer.status_code}", code="bad-answer")
    if answer.status_code in {400, 408, 413, 422}:
        return InvalidInput(message, code=code, hint=hint, diagnostics=found)
    return kind(message, code=code, hint=hint)


def _diagnostic(value: Mapping[str, Any]) -> Diagnostic:
    return Diagnostic(
        severity=Severity(value["severity"]),
        code=str(value["code"]),
        message=str(value["message"]),
        file=str(value["file"]),
        line=int(value["line"]),
        path=str(value["path"]),
        hint=str(value["hint"]),
    )
