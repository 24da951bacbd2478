"""Routes at the edge, of Istio's VirtualService and of the Gateway API's routes in one shape.

Texts are literal: the compiler escapes what a proxy would read as a command. Paths are compared
without query and after normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.gateway import Family


class ValueKind(Enum):
    """How a text is compared. `REGEX`: RE2, the whole text. `PRESENT`: any, even an empty one."""

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class ValueMatch:
    """A comparison with one text; `PRESENT` has none."""

    kind: ValueKind
    text: str = ""


class PathKind(Enum):
    """`PREFIX` compares texts (Istio), `SEGMENTS` whole parts of the path (Gateway API).

    The text of `SEGMENTS` has no slash at its end, but for `/` itself, which means every path.
    """

    EXACT = "exact"
    PREFIX = "prefix"
    SEGMENTS = "segments"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A comparison with the path. `ignore_case` never stands with `REGEX`."""

    kind: PathKind
    text: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class NamedMatch:
    """A header (name in lower case) or a query parameter; `negated`: must not match."""

    name: str
    match: ValueMatch
    negated: bool = False


@dataclass(frozen=True, slots=True)
class ParentRef:
    """A gateway that a route wants to attach to; `listener` and `port` (0) narrow it."""

    namespace: str
    name: str
    listener: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class HttpMatch:
    """All that is given must hold. `scheme`: `http`, `https` or "".

    `authority` is compared in lower case and without port. `port`: the listener's, 0 any.
    `parents` replace those of the route for this match, if there are any (Istio).
    """

    path: PathMatch | None = None
    method: ValueMatch | None = None
    authority: ValueMatch | None = None
    scheme: str = ""
    headers: tuple[NamedMatch, ...] = ()
    query: tuple[NamedMatch, ...] = ()
    port: int = 0
    parents: tuple[ParentRef, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class HeaderChange:
    """Names in lower case; `set_` replaces, `add` appends; then those in `remove` go."""

    set_: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


NO_CHANGE = HeaderChange()


@dataclass(frozen=True, slots=True)
class HeaderChanges:
    """What happens to headers on the way in and on the way out."""

    request: HeaderChange = NO_CHANGE
    response: HeaderChange = NO_CHANGE


UNCHANGED = HeaderChanges()


@dataclass(frozen=True, slots=True, order=True)
class ServiceRef:
    """A workload of the mesh by namespace and name."""

    namespace: str
    name: str


class PathChangeKind(Enum):
    """What is replaced.

    The `WHOLE` path; what the path match `MATCHED` as text (Istio's prefix, or the whole after an
    exact or regex match, or the first slash without any); the `SEGMENTS` that it matched (Gateway
    API); what `REGEX` finds.
    """

    WHOLE = "whole"
    MATCHED = "matched"
    SEGMENTS = "segments"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathChange:
    r"""`text` is put in; for `REGEX` it may hold `\1` to `\9` and replaces what `pattern` finds."""

    kind: PathChangeKind
    text: str
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Of a request before it is forwarded; `host` "" leaves the Host header as it came."""

    host: str = ""
    path: PathChange | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """A share of the requests: `weight` of the sum of all; 0 gets none, and if all have 0: 500.

    `port` 0: the only one that the service has. `subset`: of a `DestinationRule`, "" all instances.
    """

    service: ServiceRef
    port: int = 0
    weight: int = 1
    subset: str = ""
    headers: HeaderChanges = UNCHANGED


@dataclass(frozen=True, slots=True)
class Forward:
    """Sent on to one of `destinations`; none at all: 500."""

    destinations: tuple[Destination, ...]
    rewrite: Rewrite | None = None


class RedirectPort(Enum):
    """`LISTENER`: the gateway's port; `SCHEME`: 80 or 443.

    `REQUEST`: as the Host header had it, none if the redirect names a host.
    """

    LISTENER = "listener"
    REQUEST = "request"
    SCHEME = "scheme"


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answered with `status` and a Location in which "" and None are as in the request.

    Ports 80 with http and 443 with https are not written out.
    """

    scheme: str = ""
    host: str = ""
    path: PathChange | None = None
    port: int | RedirectPort = RedirectPort.LISTENER
    status: int = 302


class UnmatchedPreflight(Enum):
    """What happens to a preflight of an origin that is not allowed."""

    FORWARD = "forward"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Cors:
    """Cross-origin requests, answered by the gateway (Fetch standard, section 3.2).

    `origins`: any of them; `*` in `methods`, `headers`, `expose` stands alone. `max_age_s` None:
    no header.
    """

    origins: tuple[ValueMatch, ...]
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    max_age_s: int | None = None
    credentials: bool = False
    unmatched: UnmatchedPreflight = UnmatchedPreflight.FORWARD


@dataclass(frozen=True, slots=True)
class HttpRule:
    """Applies if any of `matches` holds; none at all: always. `name` "" if it has none."""

    action: Forward | Redirect
    matches: tuple[HttpMatch, ...] = ()
    headers: HeaderChanges = UNCHANGED
    cors: Cors | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class TlsMatch:
    """The server name in the client's hello: any of `names` (exact, `*.suffix`, `*`; not empty)."""

    names: tuple[str, ...]
    port: int = 0
    parents: tuple[ParentRef, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsRule:
    """Connections that are passed on unopened."""

    matches: tuple[TlsMatch, ...]
    destinations: tuple[Destination, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """One document. In Istio's the first rule that matches decides; see the compiler for others.

    `kind` is `GROUP/Kind`. `hosts`: lower case, `*.suffix` or `*`; empty: every host of the
    listener. `parents` is never empty. `exported_to`: namespaces whose gateways may use it, empty:
    all. `created` sorts; "" unknown.
    """

    family: Family
    kind: str
    hosts: tuple[str, ...]
    parents: tuple[ParentRef, ...]
    http: tuple[HttpRule, ...] = ()
    tls: tuple[TlsRule, ...] = ()
    exported_to: tuple[str, ...] = ()
    created: str = ""


@dataclass(frozen=True, slots=True)
class Subset:
    """The instances of a service that have all `labels` (sorted, not empty)."""

    name: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class DestinationRule:
    """Istio's DestinationRule, as far as routes need it: names for parts of a service.

    `exported_to` and `created` as in `Route`.
    """

    service: ServiceRef
    subsets: tuple[Subset, ...] = ()
    exported_to: tuple[str, ...] = ()
    created: str = ""
