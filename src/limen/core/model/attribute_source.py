"""Where the decision point finds attributes that a request lacks (`limen.dev/v1` AttributeSource).

Categories and names of attributes stand as written; `core/policy/sources` says what they mean to
each policy language. Secrets are in files that are named here, never here.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TIMEOUT_S = 1.0
DEFAULT_CACHE_S = 30.0
DEFAULT_ROWS = 100
MAX_ROWS = 1_000


@dataclass(frozen=True, slots=True, order=True)
class AttributeName:
    """One attribute: category, identifier, datatype (short name of XACML, as `string`)."""

    category: str
    id: str
    datatype: str = "string"


@dataclass(frozen=True, slots=True)
class SourceParameter:
    """What of the request the source is asked with. `name` is how the origin refers to it."""

    name: str
    attribute: AttributeName


@dataclass(frozen=True, slots=True)
class GivenAttribute:
    """An attribute that the source gives: `field` of an answer (a name, or a JSON pointer).

    `optional`: languages that cannot say so themselves take its absence for no value.
    """

    attribute: AttributeName
    field: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """The identifiers of all things of one `type` (empty: actions) are the `field` of the rows."""

    part: str
    field: str
    type: str = ""


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """Rows of a file; `where` pairs a field of a row with the parameter that it must equal."""

    path: str
    form: str
    where: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class HttpOrigin:
    """A JSON object, or a list of them, at `url`, in which `{name}` stands for a parameter.

    `allowed`: networks that may be asked though they are not public.
    """

    url: str
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    token_file: str = ""
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SqliteOrigin:
    """The rows of a query, in which `:name` stands for a parameter. The file is only read."""

    path: str
    query: str


@dataclass(frozen=True, slots=True)
class PostgresOrigin:
    """As `SqliteOrigin`, on a server. Without `ca_file` only a server of this host is asked."""

    host: str
    port: int
    database: str
    user: str
    query: str
    password_file: str = ""
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class ClaimsOrigin:
    """The claims of the token that the proxy verified, as one row.

    `header`: over HTTP the proxy writes them there; empty: they are taken over gRPC only.
    """

    header: str = ""


@dataclass(frozen=True, slots=True)
class LabelsOrigin:
    """The labels with which the calling workload is registered, as one row."""


SourceOrigin = FileOrigin | HttpOrigin | SqliteOrigin | PostgresOrigin | ClaimsOrigin | LabelsOrigin


@dataclass(frozen=True, slots=True)
class AttributeSource:
    """A source, owned by the services of its namespace. `cache_s` 0: every request asks anew."""

    namespace: str
    name: str
    origin: SourceOrigin
    parameters: tuple[SourceParameter, ...]
    gives: tuple[GivenAttribute, ...]
    cache_s: float = DEFAULT_CACHE_S
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_rows: int = DEFAULT_ROWS
    lists: tuple[Listing, ...] = ()

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
