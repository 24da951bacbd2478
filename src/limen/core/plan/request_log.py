"""Names of the fields of an access log's line: what is written is what is read back.

`core/envoy/access_log.py` writes them, `core/compiler/past.py` and the agent read them. Empty ones
are left out of a line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.policy.decision import Json

EDGE = "edge"
"""Where the line was written, one of the following."""
INBOUND = "inbound"
GATEWAY = "gateway"
OUTBOUND = "outbound"
CONNECTION = "inbound-connection"
"""A plaintext connection, when it ends."""
PLAINTEXT_REQUEST = "plaintext-request"
"""A request without mTLS at a port that takes both, when it begins."""
GATEWAY_CONNECTION = "gateway-connection"

MESH = "mesh"
CALLEE = "callee"
CALLER = "caller"
"""At the caller's own edge: who calls."""
PEER = "peer"
"""At the callee's edge: the identity in the caller's certificate."""
PEER_ADDRESS = "peer_address"
CLIENT = "client"
PORT = "port"
METHOD = "method"
AUTHORITY = "authority"
PATH = "path"
STATUS = "status"
DETAILS = "details"
FLAGS = "flags"
TIME = "time"
DURATION = "duration_ms"
REQUEST_ID = "request_id"
TRACE_PARENT = "traceparent"
RULE = "rule"
"""What decided."""
SHADOW_RULE = "shadow_rule"
"""What is on trial and matched."""
AUDIT_RULE = "audit_rule"
"""What wants the request to be reported."""
TOKEN = "token"  # noqa: S105 - a field's name
"""Why a token was refused; never the token."""
EXPIRED = "Jwt is expired"
"""In `token`: no other rules would have taken it."""
TOKENS = "tokens"
VERIFIED = "verified"
"""In `tokens` where the port verifies them."""
TOKEN_PLACES = "token_places"  # noqa: S105 - a field's name
"""A JSON list: where the port looks for tokens, if not in the usual places alone."""
CLAIMS = "claims"
TRANSPORT = "transport"
PLAINTEXT = "plaintext"
"""In `transport` of a caller without mTLS; nothing stands there for the others."""
LISTENER = "listener"
SERVER_NAME = "server_name"
ROUTE = "route"
UPSTREAM = "upstream"
UPSTREAM_ADDRESS = "upstream_address"
FAILURE = "failure"
USER_AGENT = "user_agent"
LOOKED_AT = "looked_at"
"""Names of the headers that rules look at: one that was not sent is told from one not logged."""

POLICY = "policy"
"""The policy of a decision point that decided, with its epoch."""

PROVIDER_REFUSED = "ext_authz_"
"""How `details` begin where a provider refused, or could not be asked."""
_JWT_REFUSED = "jwt_authn_access_denied"
_REFUSED = ("rbac_access_denied", _JWT_REFUSED, PROVIDER_REFUSED)
_MISSING_TOKEN = "jwt_authn_access_denied{Jwt_is_missing}"  # noqa: S105 - words of Envoy
_SERVED = "via_upstream"
_BY_ROUTES = frozenset({"direct_response", "route_not_found", "cluster_not_found"})
"""What a gateway answers by itself when tokens and policies have let a request in."""
_TOKEN_REFUSED = frozenset({401, 407})
_HEADER = "header."
_HEADERS = "headers."
_ASKED = "asked "


def first_value(header: str) -> str:
    """The field with the first value of a header."""
    return _HEADER + header


def all_values(header: str) -> str:
    """The field with all values of a header, a comma between two."""
    return _HEADERS + header


def header_of(field: str) -> str:
    """The header whose first value `field` holds, "" if it holds none."""
    return field.removeprefix(_HEADER) if field.startswith(_HEADER) else ""


def asked(provider: str) -> str:
    """The field with the rule because of which a provider was asked."""
    return _ASKED + provider


def provider_of(field: str) -> str:
    """The provider of such a field, "" if it is another."""
    return field.removeprefix(_ASKED) if field.startswith(_ASKED) else ""


def header_values(first: str, every: str) -> tuple[str, ...] | None:
    """The values of a header from its two fields; None if they cannot be told apart.

    Envoy writes all values with a comma between two, and a value may hold commas itself: the first
    one written alone tells one value from two, and two without more commas are known too.
    """
    if not every or every == first:
        return (first,) if first else ()
    rest = every.removeprefix(f"{first},")
    if rest == every or "," in rest:
        return None
    return (first, rest)


def verdict(line: Mapping[str, Json]) -> bool | None:
    """What the proxy decided; None: it was never asked (a broken request)."""
    details, status = str(line.get(DETAILS) or ""), number(line.get(STATUS))
    if details.startswith(_REFUSED):
        return False
    if line.get(EDGE) == OUTBOUND:
        return False
    if details == _SERVED:
        return True
    if line.get(EDGE) == GATEWAY and details in _BY_ROUTES:
        return True
    if status in _TOKEN_REFUSED:
        return False
    return True if str(line.get(FLAGS) or "").startswith("U") else None


def refused_token(line: Mapping[str, Json]) -> str:
    """Why a request's token was refused; "" if none was, because it was good or none came.

    That none came (`Jwt is missing`) stands in lines of requests that were let through, too.
    """
    details = str(line.get(DETAILS) or "")
    if details == _MISSING_TOKEN or details.startswith((_SERVED, PROVIDER_REFUSED)):
        return ""
    if number(line.get(STATUS)) in _TOKEN_REFUSED or details.startswith(_JWT_REFUSED):
        return str(line.get(TOKEN) or line.get(RULE) or details or "invalid")
    return ""


def number(value: Json) -> int:
    """A number that may be written as text; 0 for everything else."""
    if isinstance(value, bool):
        return 0
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else 0


def host_of(value: Json) -> str:
    """The address of `ADDRESS:PORT`, or of `[ADDRESS]:PORT`, or as it stands."""
    text = str(value or "")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
