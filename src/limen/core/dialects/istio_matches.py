"""What a rule of Istio's VirtualService matches: schemas and conversion.

Source: istio/api `networking/v1/virtual_service.proto` HTTPMatchRequest, TLSMatchAttributes,
StringMatch; istio/istio `pkg/config/validation` validateHTTPRouteMatchRequest, validateTLSMatch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import obj, text, texts, whole
from limen.core.dialects.gateway_headers import (
    ISTIO_MATCH_NAME,
    METHOD,
    PARAMETER,
    VALUE,
)
from limen.core.dialects.gateway_hosts import SERVER_NAME, check_authority
from limen.core.dialects.gateway_paths import MAX_PATH, PATH, PREFIX
from limen.core.dialects.gateway_regex import MAX_LENGTH, check_regex
from limen.core.dialects.metadata import NAME
from limen.core.dialects.schema import (
    Choice,
    Field,
    Flag,
    ListOf,
    MapOf,
    Refused,
    Struct,
    Text,
    Whole,
)
from limen.core.model.names import parse_name
from limen.core.model.route import (
    HttpMatch,
    NamedMatch,
    ParentRef,
    PathKind,
    PathMatch,
    TlsMatch,
    ValueKind,
    ValueMatch,
)
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.dialects.schema import Rule

MESH = "mesh"
REGEX = Text("a regular expression", max_length=MAX_LENGTH, parse=check_regex)
_SIDECARS = "routes between services of the mesh are a later version; a gateway knows no labels"
_KINDS = {"exact": ValueKind.EXACT, "prefix": ValueKind.PREFIX, "regex": ValueKind.REGEX}


def check_gateway_name(value: str) -> None:
    """`NAME` or `NAMESPACE/NAME`; not the sidecars of the mesh."""
    if value == MESH:
        raise InvalidInput(
            "the sidecars of the mesh are not supported",
            code="refused-value",
            hint="name gateways only; routes between services are a later version",
        )
    namespace, slash, name = value.rpartition("/")
    if slash:
        parse_name(namespace, "namespace")
    elif "." in name:
        raise InvalidInput(
            f"{show(value)} is the old form of a gateway's name",
            code="refused-value",
            hint="write NAMESPACE/NAME",
        )
    parse_name(name, "gateway")


GATEWAY_NAME = Text("a gateway", max_length=510, parse=check_gateway_name)


def to_parent(namespace: str, value: str) -> ParentRef:
    """A checked name in a document of `namespace`."""
    owner, _, name = value.rpartition("/")
    return ParentRef(owner or namespace, name)


def _one_of(*, may_be_empty: bool) -> Rule:
    def check_one(value: JsonObject, path: str, out: Findings) -> None:
        if len(value) > 1:
            fields = list(value)
            message = f"{fields[0]} and {fields[1]} cannot be used together"
            out.error("conflicting-fields", message, child(path, fields[1]), "keep one of them")
        if not value and not may_be_empty:
            message = "it compares with nothing"
            out.error("empty-value", message, path, "write exact, prefix or regex")

    return check_one


def text_match(
    exact: Text, prefix: Text | None = None, *, may_be_empty: bool = False, note: str = ""
) -> Struct:
    """The schema of a StringMatch whose texts are of the given kinds."""
    return Struct(
        {
            "exact": Field(exact, note=note),
            "prefix": Field(prefix or Text("a beginning", max_length=exact.max_length)),
            "regex": Field(REGEX, note="the whole text; RE2"),
        },
        (_one_of(may_be_empty=may_be_empty),),
    )


def to_value(value: JsonObject, *, lower: bool = False) -> ValueMatch:
    """A checked StringMatch; an empty one asks for presence."""
    for field, kind in _KINDS.items():
        if field in value:
            found = text(value, field)
            fold = lower and kind is not ValueKind.REGEX
            return ValueMatch(kind, found.lower() if fold else found)
    return ValueMatch(ValueKind.PRESENT)


def _check_authority_start(value: str) -> None:
    check_authority(value.rstrip(".-"))


_ANY_EMPTY = Text("a text", min_length=0, max_length=MAX_PATH)
_SCHEME = Struct(
    {
        "exact": Field(Choice(("http", "https")), required=True),
        "prefix": Field(Refused("there are http and https only: write exact")),
        "regex": Field(Refused("there are http and https only: write exact")),
    }
)
_HEADER_MATCH = text_match(VALUE, may_be_empty=True, note="`{}`: the header is there")
_URI = text_match(PATH, PREFIX)


def _check_match(match: JsonObject, path: str, out: Findings) -> None:
    if not set(match) - {"name", "ignoreUriCase"}:
        message = "the match is empty, which could mean all or none"
        out.error(
            "empty-value", message, path, "write a condition, or remove the list to match all"
        )
    if match.get("ignoreUriCase") is True and not {"exact", "prefix"} & set(obj(match, "uri")):
        out.error(
            "conflicting-fields",
            "ignoreUriCase needs a uri with exact or prefix",
            child(path, "ignoreUriCase"),
            "begin the expression with (?i), or remove it",
        )
    both = set(obj(match, "headers")) & set(obj(match, "withoutHeaders"))
    for name in sorted(both):
        if obj(match, "headers")[name] == obj(match, "withoutHeaders")[name]:
            out.warn(
                "never-matches",
                f"withoutHeaders takes back what headers ask of {show(name)}: it never applies",
                child(child(path, "withoutHeaders"), name),
                "correct one of the two",
            )


_SOURCE = {
    "sourceLabels": Field(Refused(_SIDECARS)),
    "sourceNamespace": Field(Refused(_SIDECARS)),
}
_GATEWAYS = Field(
    ListOf(GATEWAY_NAME, 100), note="instead of those of the whole document, for this match"
)
HTTP_MATCH = Struct(
    {
        "name": Field(NAME, note="written to the access log"),
        "uri": Field(_URI, note="without the query; prefix compares texts: `/a` means `/ab` too"),
        "scheme": Field(_SCHEME),
        "method": Field(text_match(METHOD, METHOD)),
        "authority": Field(
            text_match(
                Text("a host", max_length=260, parse=check_authority),
                Text("a host's beginning", max_length=260, parse=_check_authority_start),
            ),
            note="case and port do not matter",
        ),
        "headers": Field(MapOf(ISTIO_MATCH_NAME, _HEADER_MATCH), note="all of them"),
        "withoutHeaders": Field(MapOf(ISTIO_MATCH_NAME, _HEADER_MATCH), note="none of them"),
        "queryParams": Field(
            MapOf(PARAMETER, text_match(_ANY_EMPTY, may_be_empty=True)), note="all of them"
        ),
        "ignoreUriCase": Field(Flag()),
        "port": Field(Whole(1, 65535), note="of the gateway"),
        "gateways": _GATEWAYS,
        **_SOURCE,
        "statPrefix": Field(Refused("statistics for a single route are not kept: remove it")),
    },
    (_check_match,),
)
TLS_MATCH = Struct(
    {
        "sniHosts": Field(
            ListOf(SERVER_NAME, 1000), required=True, note="any of them, within hosts"
        ),
        "port": Field(Whole(1, 65535), note="of the gateway"),
        "gateways": _GATEWAYS,
        **_SOURCE,
        "destinationSubnets": Field(Refused("a gateway has addresses of its own: remove it")),
    }
)


def to_http_match(namespace: str, match: JsonObject) -> HttpMatch:
    """A checked match of a document of `namespace`."""
    return HttpMatch(
        path=_to_path(match),
        method=to_value(obj(match, "method")) if "method" in match else None,
        authority=to_value(obj(match, "authority"), lower=True) if "authority" in match else None,
        scheme=text(obj(match, "scheme"), "exact"),
        headers=(*_named(match, "headers"), *_named(match, "withoutHeaders", negated=True)),
        query=_named(match, "queryParams"),
        port=whole(match, "port"),
        parents=tuple(to_parent(namespace, name) for name in texts(match, "gateways")),
        name=text(match, "name"),
    )


def _to_path(match: JsonObject) -> PathMatch | None:
    uri = obj(match, "uri")
    for field, kind in (
        ("exact", PathKind.EXACT),
        ("prefix", PathKind.PREFIX),
        ("regex", PathKind.REGEX),
    ):
        if field in uri:
            return PathMatch(kind, text(uri, field), match.get("ignoreUriCase") is True)
    return None


def _named(match: JsonObject, field: str, *, negated: bool = False) -> tuple[NamedMatch, ...]:
    entries = obj(match, field)
    return tuple(NamedMatch(name, to_value(obj(entries, name)), negated) for name in entries)


def to_tls_match(namespace: str, match: JsonObject) -> TlsMatch:
    """A checked match of a document of `namespace`."""
    return TlsMatch(
        names=tuple(name.lower() for name in texts(match, "sniHosts")),
        port=whole(match, "port"),
        parents=tuple(to_parent(namespace, name) for name in texts(match, "gateways")),
    )
