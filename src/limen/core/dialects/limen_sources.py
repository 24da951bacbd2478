"""`limen.dev/v1` AttributeSource: where attributes come from, with what it is asked, what it gives.

Parameters are bound, never written into a query; files hold the secrets.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.duration import parse_duration
from limen.core.dialects.fields import obj, objects, text, texts, whole
from limen.core.dialects.schema import (
    Choice,
    Duration,
    Field,
    Flag,
    ListOf,
    MapOf,
    Struct,
    Text,
    Whole,
)
from limen.core.dialects.source_text import check_url, placeholders_of_query, placeholders_of_url
from limen.core.model.attribute_source import (
    DEFAULT_CACHE_S,
    DEFAULT_ROWS,
    DEFAULT_TIMEOUT_S,
    MAX_ROWS,
    AttributeName,
    AttributeSource,
    ClaimsOrigin,
    FileOrigin,
    GivenAttribute,
    HttpOrigin,
    LabelsOrigin,
    Listing,
    PostgresOrigin,
    SourceParameter,
    SqliteOrigin,
)
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.model.attribute_source import SourceOrigin

DATATYPES = (
    *("string", "boolean", "integer", "double", "time", "date", "dateTime", "dayTimeDuration"),
    *("yearMonthDuration", "anyURI", "hexBinary", "base64Binary", "rfc822Name", "x500Name"),
    *("ipAddress", "dnsName"),
)
ORIGINS = ("file", "http", "sqlite", "postgres", "claims", "labels")
_FORMS = {".csv": "csv", ".json": "json", ".yaml": "yaml", ".yml": "yaml"}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_ID = re.compile(r"[!-~]+", re.ASCII)
_HEADER = re.compile(r"x-[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
_HOST = re.compile(r"/[!-~]+|[A-Za-z0-9](?:[A-Za-z0-9.:-]*[A-Za-z0-9])?|::1", re.ASCII)
_CATEGORY = re.compile(r"subject|resource|action|environment|[a-z][a-z0-9+.-]*:[!-~]+", re.ASCII)


def _check_network(value: str) -> None:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise InvalidInput(
            f"{show(value)} is no network", code="bad-value", hint="write 10.20.0.0/16"
        ) from None


def _check_http(spec: JsonObject, path: str, out: Findings) -> None:
    if ("certificateFile" in spec) is not ("keyFile" in spec):
        message = "certificateFile and keyFile belong together"
        out.error("missing-field", message, path, "write both, or neither")


_PATH = Text("a path", max_length=1024)
_QUERY = Text("a query", max_length=16_384)
_PARAMETER = Text("a name of letters, digits and _", pattern=_WORD)
_FIELD = Text("a field", max_length=256)
_TYPE = Text("a type", pattern=_ID, max_length=256)
_NAMED = {
    "category": Field(
        Text("a category", pattern=_CATEGORY, hint="subject, resource, action, environment"),
        required=True,
        note="`subject`, `resource`, `action`, `environment`, or the identifier of another",
    ),
    "attribute": Field(
        Text("an attribute's identifier", pattern=_ID, max_length=512),
        required=True,
        note="`id` of subject and resource, `name` of the action, `type`; or an identifier",
    ),
    "dataType": Field(Choice(DATATYPES), note="`string` if absent"),
}
_FILE = Struct(
    {
        "path": Field(_PATH, required=True, note="`.csv` with a head, `.json`, `.yaml`: rows"),
        "where": Field(
            MapOf(_FIELD, _PARAMETER),
            note="field of a row to the parameter that it must equal; all rows if absent",
        ),
    }
)
_HTTP = Struct(
    {
        "url": Field(
            Text("an address", max_length=2048, parse=check_url),
            required=True,
            note="`https://`, or `http://` of loopback; `{name}` is a parameter; answers JSON",
        ),
        "caFile": Field(_PATH, note="authorities of the server; the system's if absent"),
        "certificateFile": Field(_PATH, note="our certificate, for mutual TLS"),
        "keyFile": Field(_PATH, note="its key"),
        "tokenFile": Field(_PATH, note="a bearer token to send"),
        "allowedNetworks": Field(
            ListOf(Text("a network", parse=_check_network), 100),
            note="private networks that may be asked; else public addresses only",
        ),
    },
    (_check_http,),
)
_SQLITE = Struct(
    {
        "path": Field(_PATH, required=True, note="is only read"),
        "query": Field(_QUERY, required=True, note="one SELECT; `:name` is a parameter, bound"),
    }
)
_POSTGRES = Struct(
    {
        "host": Field(
            Text("a host, or a socket's directory", pattern=_HOST, max_length=253), required=True
        ),
        "port": Field(Whole(1, 65535), note="5432 if absent"),
        "database": Field(Text("a database", max_length=63), required=True),
        "user": Field(Text("a user", max_length=63), required=True),
        "passwordFile": Field(_PATH, note="the password, and nothing else"),
        "caFile": Field(_PATH, note="needed unless the server is on this host"),
        "query": Field(_QUERY, required=True, note="one SELECT; `:name` is a parameter, bound"),
    }
)
_CLAIMS = Struct(
    {
        "header": Field(
            Text("a header", pattern=_HEADER, max_length=64),
            note="where the proxy writes them over HTTP: `x-limen-claims`; over gRPC if absent",
        )
    }
)


def _check_listing(spec: JsonObject, path: str, out: Findings) -> None:
    if (text(spec, "part") == "action") is ("type" in spec):
        message = "subjects and resources are listed by type, actions without"
        out.error("conflicting-fields", message, path, "write type for subjects and resources")


def _check_lists(spec: JsonObject, path: str, out: Findings) -> None:
    if "lists" not in spec and "attributes" not in spec:
        message = "a source that gives no attributes and lists nothing has no effect"
        out.error("missing-field", message, path, "write attributes")
    if "lists" in spec and ("parameters" in spec or {"claims", "labels"} & set(spec)):
        message = "what a source lists does not depend on a request"
        hint = "write a source of its own, without parameters, for the list"
        out.error("conflicting-fields", message, child(path, "lists"), hint)


def _check_origin(spec: JsonObject, path: str, out: Findings) -> None:
    given = [name for name in ORIGINS if name in spec]
    if len(given) != 1:
        hint = f"write one of {', '.join(ORIGINS)}"
        out.error("conflicting-fields", "a source has exactly one origin", path, hint)
        return
    known = [text(p, "name") for p in objects(spec, "parameters")]
    for index, name in enumerate(known):
        if name in known[:index]:
            place = child(child(path, "parameters"), index)
            out.error("duplicate-name", f"the parameter {show(name)} stands twice", place)
    used = _used(given[0], obj(spec, given[0]), child(path, given[0]), out)
    if used is None:
        return
    for name in sorted(used - set(known)):
        out.error(
            "unknown-parameter",
            f"{given[0]} uses the parameter {show(name)}, which is not declared",
            child(path, given[0]),
            "add it to parameters",
        )
    for name in sorted(set(known) - used):
        message = f"the parameter {show(name)} is not used"
        out.error("unused-parameter", message, child(path, "parameters"), "use it, or remove it")


def _used(name: str, origin: JsonObject, path: str, out: Findings) -> set[str] | None:
    """The parameters that the origin refers to; None if it cannot be read."""
    try:
        match name:
            case "file":
                _form(text(origin, "path"))
                return {text(obj(origin, "where"), field) for field in obj(origin, "where")}
            case "http":
                return placeholders_of_url(text(origin, "url"))
            case "sqlite" | "postgres":
                return placeholders_of_query(text(origin, "query"))
            case _:
                return set()
    except ValueError as error:
        out.error("bad-value", f"{name}: {error}", path, "mend it")
        return None


def _form(path: str) -> str:
    """Raises ValueError for a name that does not tell."""
    dot = path.rfind(".")
    found = _FORMS.get(path[dot:].lower()) if dot >= 0 else None
    if found is None:
        raise ValueError("the name of the file ends in .csv, .json, .yaml or .yml")
    return found


def _check_attributes(spec: JsonObject, path: str, out: Findings) -> None:
    seen = []
    for index, given in enumerate(objects(spec, "attributes")):
        name = _name(given)
        if name in seen:
            place = child(child(path, "attributes"), index)
            out.error("duplicate-name", f"the attribute {show(name.id)} is given twice", place)
        seen.append(name)


ATTRIBUTE_SOURCE = Struct(
    {
        "file": Field(_FILE),
        "http": Field(_HTTP),
        "sqlite": Field(_SQLITE),
        "postgres": Field(_POSTGRES),
        "claims": Field(_CLAIMS, note="of the token that the proxy verified"),
        "labels": Field(Struct({}), note="with which the calling workload is registered"),
        "parameters": Field(
            ListOf(
                Struct({"name": Field(_PARAMETER, required=True), **_NAMED}),
                16,
            ),
            note="what of the request the source is asked with; each has one value",
        ),
        "attributes": Field(
            ListOf(
                Struct(
                    {
                        **_NAMED,
                        "field": Field(
                            _FIELD,
                            required=True,
                            note="of an answer: a name, or a JSON pointer (`/a/b`)",
                        ),
                        "optional": Field(
                            Flag(),
                            note="Rego only: absent is no value; else it is Indeterminate. In "
                            "XACML `MustBePresent` says so",
                        ),
                    }
                ),
                100,
            ),
            note="what it gives",
        ),
        "lists": Field(
            ListOf(
                Struct(
                    {
                        "part": Field(Choice(("subject", "resource", "action")), required=True),
                        "type": Field(_TYPE, note="of the subjects or resources"),
                        "field": Field(_FIELD, required=True, note="the identifier"),
                    },
                    (_check_listing,),
                ),
                16,
            ),
            note="of a source without parameters: candidates of AuthZEN's searches",
        ),
        "cache": Field(Duration(0, 86_400), note="30s if absent; 0s: every request asks anew"),
        "timeout": Field(Duration(0.01, 10), note="1s if absent; beyond, Indeterminate"),
        "maxRows": Field(
            Whole(1, MAX_ROWS), note="100 if absent (1000 with lists); more is an error"
        ),
    },
    (_check_origin, _check_attributes, _check_lists),
)


def to_attribute_source(namespace: str, metadata: JsonObject, spec: JsonObject) -> AttributeSource:
    """A checked document."""
    return AttributeSource(
        namespace=namespace,
        name=text(metadata, "name"),
        origin=_origin(spec),
        parameters=tuple(
            SourceParameter(text(p, "name"), _name(p)) for p in objects(spec, "parameters")
        ),
        gives=tuple(
            GivenAttribute(_name(a), text(a, "field"), a.get("optional") is True)
            for a in objects(spec, "attributes")
        ),
        cache_s=parse_duration(text(spec, "cache", f"{DEFAULT_CACHE_S:g}s")),
        timeout_s=parse_duration(text(spec, "timeout", f"{DEFAULT_TIMEOUT_S:g}s")),
        max_rows=whole(spec, "maxRows", MAX_ROWS if "lists" in spec else DEFAULT_ROWS),
        lists=tuple(
            Listing(text(one, "part"), text(one, "field"), text(one, "type"))
            for one in objects(spec, "lists")
        ),
    )


def _name(value: JsonObject) -> AttributeName:
    return AttributeName(
        text(value, "category"), text(value, "attribute"), text(value, "dataType", "string")
    )


def _origin(spec: JsonObject) -> SourceOrigin:
    kind = next(name for name in ORIGINS if name in spec)
    origin = obj(spec, kind)
    match kind:
        case "file":
            where = obj(origin, "where")
            pairs = tuple(sorted((field, text(where, field)) for field in where))
            return FileOrigin(text(origin, "path"), _form(text(origin, "path")), pairs)
        case "http":
            return HttpOrigin(
                text(origin, "url"),
                text(origin, "caFile"),
                text(origin, "certificateFile"),
                text(origin, "keyFile"),
                text(origin, "tokenFile"),
                texts(origin, "allowedNetworks"),
            )
        case "sqlite":
            return SqliteOrigin(text(origin, "path"), text(origin, "query"))
        case "postgres":
            return PostgresOrigin(
                text(origin, "host"),
                whole(origin, "port", 5432),
                text(origin, "database"),
                text(origin, "user"),
                text(origin, "query"),
                text(origin, "passwordFile"),
                text(origin, "caFile"),
            )
        case "claims":
            return ClaimsOrigin(text(origin, "header"))
        case _:
            return LabelsOrigin()
