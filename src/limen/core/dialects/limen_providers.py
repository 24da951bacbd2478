"""`extensionProviders` of MeshSettings: whom CUSTOM policies ask. Shaped after Istio's MeshConfig.

Source: istio/api `mesh/v1alpha1/config.proto`, MeshConfig.ExtensionProvider.
"""

from __future__ import annotations

import ipaddress
import re
from functools import partial

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.duration import parse_duration
from limen.core.dialects.fields import obj, objects, text, texts, whole
from limen.core.dialects.gateway_headers import check_header_name
from limen.core.dialects.gateway_hosts import parse_service
from limen.core.dialects.metadata import NAME
from limen.core.dialects.schema import (
    Choice,
    Duration,
    Field,
    Flag,
    ListOf,
    MapOf,
    Only,
    Refused,
    Struct,
    Text,
    Whole,
)
from limen.core.model.decision import PolicyRef
from limen.core.model.names import parse_name
from limen.core.model.provider import (
    DEFAULT_STATUS_ON_ERROR,
    DEFAULT_TIMEOUT_S,
    ExtensionProvider,
    HeaderPatterns,
    ProviderBody,
    ProviderProtocol,
    Stage,
)
from limen.core.model.resource import REGO_POLICY, XACML_POLICY
from limen.errors import InvalidInput

_UNIX = "unix://"
_MAX_BODY = 1 << 20
_SETTABLE = re.compile(
    r"(?!(?:authorization|cookie|host|connection|keep-alive|te|trailer|transfer-encoding|upgrade"
    r"|content-length|expect|via|forwarded|x-real-ip|x-request-id|traceparent|tracestate)$)"
    r"(?!x-forwarded-|x-envoy-|x-limen-|proxy-|client-cert)[a-z0-9.!#$%&'^`|~+-]+",
    re.ASCII,
)
_VALUE = re.compile(r"[!-~]+(?: +[!-~]+)*", re.ASCII)
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+", re.ASCII)
_NO_OPEN = "a provider that cannot be asked refuses the request: remove the field"


def _check_address(value: str) -> None:
    if value.startswith(_UNIX):
        path = value.removeprefix(_UNIX)
        if not path.startswith("/") or len(path.encode()) > 107 or "\0" in path:
            raise InvalidInput(
                f"{show(value)} is not a Unix socket",
                code="bad-value",
                hint="write unix:///path/of/the/socket, 107 bytes at most",
            )
        return
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        parse_service(value, "default")
        return
    if not address.is_loopback:
        raise InvalidInput(
            f"{show(value)} is neither a workload of the mesh nor on the proxy's own host",
            code="bad-value",
            hint="write NAME.NAMESPACE.mesh, 127.0.0.1 or unix:///path",
        )


def _check_pattern(value: str) -> None:
    name = value.removesuffix("*") if value.endswith("*") else value.removeprefix("*")
    check_header_name(name)
    if "*" in name:
        raise InvalidInput(
            f"{show(value)} is no pattern of a header", code="bad-value", hint="write x-user or x-*"
        )


def _parse_ref(value: str) -> None:
    namespace, slash, name = value.rpartition("/")
    parse_name(name)
    if slash:
        parse_name(namespace, "namespace")


def _check_settable(value: str) -> None:
    check_header_name(value)
    if not _SETTABLE.fullmatch(value.lower()):
        raise InvalidInput(
            f"a provider may not fill {show(value)}",
            code="bad-value",
            hint="what clients send there is removed first: take a name of its own: x-ext-user",
        )


_PATTERNS = ListOf(Text("a header", max_length=128, parse=_check_pattern), 100)
_SETTABLES = ListOf(Text("a header", max_length=128, parse=_check_settable), 100)
_HEADER = Text("a header", max_length=128, parse=_check_settable)
_HEADER_VALUE = Text("a header's value", max_length=4096, pattern=_VALUE)
_BODY = Struct(
    {
        "maxRequestBytes": Field(
            Whole(1, _MAX_BODY), required=True, note="a request with more is answered with 413"
        ),
        "allowPartialMessage": Field(
            Only(False, "what a provider does not see it cannot judge: remove the field")
        ),
        "packAsBytes": Field(Flag(), note="gRPC: as raw bytes"),
    }
)
_COMMON = {
    "service": Field(
        Text("a provider's address", max_length=510, parse=_check_address),
        required=True,
        note="a workload (`NAME.NAMESPACE.mesh`), a loopback address, or `unix:///path`",
    ),
    "port": Field(Whole(1, 65535), note="of a loopback address; a workload has its own"),
    "timeout": Field(Duration(0.001, 30), note="2s if absent"),
    "failOpen": Field(Only(False, _NO_OPEN)),
    "statusOnError": Field(
        Choice(("400", "401", "403", "404", "429", "500", "502", "503", "504")),
        note='if it cannot be asked; `"403"` if absent',
    ),
    "includeRequestBodyInCheck": Field(_BODY),
    "headersToUpstreamOnAllow": Field(
        _SETTABLES, note="what clients send there is removed, asked or not"
    ),
    "stage": Field(
        Choice(tuple(s.value for s in Stage)),
        note="Limen's own. BeforeTokens if absent; AfterTokens: claims are sent along",
    ),
}
_POLICIES = {"xacmlPolicy": XACML_POLICY, "regoPolicy": REGO_POLICY}
_NOT_OURS = Refused("the decision point stands beside the proxy: remove the field")
_POLICY = Text("a policy's name", max_length=507, parse=_parse_ref)
_PDP_ONLY = {
    "service": Field(_NOT_OURS),
    "port": Field(_NOT_OURS),
    "xacmlPolicy": Field(
        _POLICY, note="what decides: `NAMESPACE/NAME`, or `NAME` in the namespace of the workload"
    ),
    "regoPolicy": Field(_POLICY, note="the same"),
    "includeRequestHeadersInCheck": Field(_PATTERNS, note="all if absent"),
}
_HTTP_ONLY = {
    "pathPrefix": Field(Text("a path", pattern=_PREFIX, max_length=200), note="before the path"),
    "includeRequestHeadersInCheck": Field(
        _PATTERNS, note="of the client, beside method, host, path, authorization"
    ),
    "includeAdditionalHeadersInCheck": Field(
        MapOf(_HEADER, _HEADER_VALUE), note="fixed; no place for secrets, `get` shows them"
    ),
    "headersToDownstreamOnDeny": Field(_PATTERNS, note="all if absent"),
    "headersToDownstreamOnAllow": Field(_PATTERNS, note="none if absent"),
}


def _check_port(spec: JsonObject, path: str, out: Findings) -> None:
    service = text(spec, "service")
    try:
        loopback = bool(ipaddress.ip_address(service))
    except ValueError:
        loopback = False
    if loopback and "port" not in spec:
        out.error("missing-field", "a loopback address needs its port", path, "write port: 9000")
    if service.startswith(_UNIX) and "port" in spec:
        message = "a Unix socket has no port"
        out.error("conflicting-fields", message, child(path, "port"), "remove port")


def _check_policy(spec: JsonObject, path: str, out: Findings) -> None:
    if len(_POLICIES.keys() & spec.keys()) != 1:
        wanted = " or ".join(_POLICIES)
        out.error("conflicting-fields", f"one policy decides: {wanted}", path, "write one of them")


def _check_one(spec: JsonObject, path: str, out: Findings) -> None:
    given = [p.value for p in ProviderProtocol if p.value in spec]
    if len(given) != 1:
        wanted = " or ".join(p.value for p in ProviderProtocol)
        out.error("conflicting-fields", f"a provider is either {wanted}", path, "write one of them")


PROVIDER = Struct(
    {
        "name": Field(NAME, required=True, note="as `provider.name` of a CUSTOM policy says it"),
        ProviderProtocol.HTTP.value: Field(Struct({**_COMMON, **_HTTP_ONLY}, (_check_port,))),
        ProviderProtocol.GRPC.value: Field(Struct(_COMMON, (_check_port,))),
        ProviderProtocol.PDP.value: Field(
            Struct({**_COMMON, **_PDP_ONLY}, (_check_policy,)),
            note="Limen's own: the decision point beside the proxy. Its stage is AfterTokens if "
            "absent",
        ),
    },
    (_check_one,),
)
PROVIDERS = Field(ListOf(PROVIDER, maximum=100), note="whom CUSTOM policies ask")


def check_providers(spec: JsonObject, path: str, out: Findings) -> None:
    """Their names are distinct."""
    names = [text(provider, "name") for provider in objects(spec, "extensionProviders")]
    for index, name in enumerate(names):
        if name in names[:index]:
            place = child(child(path, "extensionProviders"), index)
            out.error("duplicate-name", f"the provider {show(name)} stands twice", place)


def to_providers(spec: JsonObject) -> tuple[ExtensionProvider, ...]:
    """Those of a checked MeshSettings, sorted by name."""
    found = map(_to_provider, objects(spec, "extensionProviders"))
    return tuple(sorted(found, key=lambda provider: provider.name))


def _to_provider(provider: JsonObject) -> ExtensionProvider:
    protocol = next(p for p in ProviderProtocol if p.value in provider)
    spec = obj(provider, protocol.value)
    pdp = protocol is ProviderProtocol.PDP
    service, address = (None, "") if pdp else _to_place(text(spec, "service"))
    stage = Stage.AFTER_TOKENS if pdp else Stage.BEFORE_TOKENS
    patterns = partial(_to_patterns, spec)
    additional = obj(spec, "includeAdditionalHeadersInCheck")
    return ExtensionProvider(
        name=text(provider, "name"),
        protocol=protocol,
        service=service,
        address=address,
        port=whole(spec, "port"),
        timeout_s=parse_duration(text(spec, "timeout", f"{DEFAULT_TIMEOUT_S}s")),
        stage=Stage(text(spec, "stage", stage.value)),
        path_prefix=text(spec, "pathPrefix"),
        status_on_error=int(text(spec, "statusOnError", str(DEFAULT_STATUS_ON_ERROR))),
        request_headers=patterns("includeRequestHeadersInCheck"),
        additional_headers=tuple(
            sorted((name.lower(), text(additional, name)) for name in additional)
        ),
        body=_to_body(obj(spec, "includeRequestBodyInCheck")),
        to_upstream=tuple(sorted({h.lower() for h in texts(spec, "headersToUpstreamOnAllow")})),
        on_deny=patterns("headersToDownstreamOnDeny"),
        on_allow=patterns("headersToDownstreamOnAllow"),
        policy=_to_ref(spec) if pdp else None,
    )


def _to_ref(spec: JsonObject) -> PolicyRef:
    field, kind = next((f, k) for f, k in _POLICIES.items() if f in spec)
    namespace, _, name = text(spec, field).rpartition("/")
    return PolicyRef(kind, name, namespace)


def _to_place(value: str) -> tuple[tuple[str, str] | None, str]:
    """A workload's namespace and name, or an address on the host."""
    if value.startswith(_UNIX):
        return None, value.removeprefix(_UNIX)
    try:
        return None, str(ipaddress.ip_address(value))
    except ValueError:
        found = parse_service(value, "default")
        return (found.namespace, found.name), ""


def _to_patterns(spec: JsonObject, name: str) -> HeaderPatterns:
    return HeaderPatterns(tuple(sorted({value.lower() for value in texts(spec, name)})))


def _to_body(spec: JsonObject) -> ProviderBody | None:
    if not spec:
        return None
    return ProviderBody(whole(spec, "maxRequestBytes"), spec.get("packAsBytes") is True)
