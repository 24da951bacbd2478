"""Rows of a query to PostgreSQL, in a transaction that only reads, with the server's own deadline.

The server makes a text of each row and cuts it off at the limit, so that no answer is larger than
what was asked for. Needs the extra `postgres` (psycopg).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from limen.adapters.attributes.failure import (
    MAX_DEPTH,
    MAX_ITEMS,
    SourceFailure,
)
from limen.core.dialects.source_text import bind_query
from limen.core.tokens.encoding import Malformed, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.attributes.places import Places
    from limen.core.model.attribute_source import PostgresOrigin
    from limen.core.policy.sources import Value

_ROW_CHARS = 64 * 1024


async def postgres_rows(
    origin: PostgresOrigin,
    values: Mapping[str, Value],
    places: Places,
    *,
    timeout_s: float,
    max_rows: int,
) -> tuple[dict[str, Any], ...]:
    """The rows. Raises `SourceFailure`; whoever calls bounds the time of it all."""
    try:
        import psycopg  # noqa: PLC0415 - an extra that most do without
    except ImportError:
        raise SourceFailure("PostgreSQL needs the extra: pip install limen[postgres]") from None
    query, names = bind_query(origin.query.strip().removesuffix(";"))
    whole = (
        f"SELECT left(row_to_json(limen_row)::text, {_ROW_CHARS + 1}) "  # noqa: S608 - the query is the operator's; parameters are bound
        f"FROM ({query}\n) AS limen_row LIMIT {max_rows + 1}"
    )
    try:
        connection = await psycopg.AsyncConnection.connect(
            **_parameters(origin, places, timeout_s), autocommit=True
        )
        async with connection:
            cursor = await connection.execute(
                whole.encode(), [values[name] for name in names], prepare=False
            )
            found = await cursor.fetchall()
    except psycopg.errors.QueryCanceled:
        raise SourceFailure("its query did not end in time") from None
    except psycopg.Error as error:
        raise SourceFailure(f"its query fails: {type(error).__name__}") from None
    if len(found) > max_rows:
        raise SourceFailure(f"it gives more than {max_rows} rows")
    return tuple(_row(text) for (text,) in found)


def _row(text: str) -> dict[str, Any]:
    if len(text) > _ROW_CHARS:
        raise SourceFailure(f"it gives a row of more than {_ROW_CHARS} characters")
    try:
        found = parse_json(text.encode(), max_depth=MAX_DEPTH, max_items=MAX_ITEMS)
    except Malformed:
        raise SourceFailure("it gives a row that cannot be read") from None
    if not isinstance(found, dict):
        raise SourceFailure("it gives a row that cannot be read")
    return found


def _parameters(origin: PostgresOrigin, places: Places, timeout_s: float) -> dict[str, Any]:
    """Of the connection. No file of the user, no variable of the environment decides anything."""
    local = origin.host.startswith("/") or _is_loopback(origin.host)
    if not local and not origin.ca_file:
        raise SourceFailure("a server of another host needs caFile")
    limit = max(1, int(timeout_s * 1000))
    options = f"-c statement_timeout={limit} -c default_transaction_read_only=on -c work_mem=4MB"
    found: dict[str, Any] = {
        "host": origin.host,
        "port": origin.port,
        "dbname": origin.database,
        "user": origin.user,
        "password": places.secret(origin.password_file) or None,
        "passfile": "/dev/null",
        "connect_timeout": 10,
        "application_name": "limen",
        "options": options,
        "gssencmode": "disable",
        "client_encoding": "utf8",
        "sslmode": "prefer" if local else "verify-full",
        "sslcert": "/dev/null",
        "sslkey": "/dev/null",
    }
    if origin.ca_file:
        found |= {"sslmode": "verify-full", "sslrootcert": str(places.resolve(origin.ca_file))}
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
