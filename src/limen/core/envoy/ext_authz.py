"""Providers that CUSTOM rules ask, at a guarded port: three kinds of filter, each by ECDS.

`provider-headers` removes what a client says in headers that only a provider fills, asked or not.
For each provider `ask` marks the requests that its rules match, and `provider` (ext_authz) asks
about those that are marked. What a rule matches and no filter marked is denied by `rbac`, so that a
listener which does not ask yet lets nothing pass.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2, grpc_service_pb2, http_uri_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf import json_format

from limen.core.envoy import names
from limen.core.envoy.address import pipe_address, socket_address
from limen.core.envoy.encoded import Encoded, encode
from limen.core.envoy.endpoints import load_assignment
from limen.core.envoy.http_options import to_application
from limen.core.envoy.jwt_authn import outputs_filter
from limen.core.envoy.rbac import ask_filter, ask_marker, extension
from limen.core.envoy.wrapped import seconds
from limen.core.model.names import MESH_DOMAIN
from limen.core.model.provider import ExtensionProvider, ProviderProtocol, Stage
from limen.core.model.workload import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.model.provider import HeaderPatterns
    from limen.core.policy.rule import Policy

CALLER_HEADER, CLAIMS_HEADER = "x-limen-caller", "x-limen-claims"
"""What an HTTP provider learns from us: the caller's SPIFFE ID, the verified claims as JSON."""
_OURS = "x-limen-"
_MAX_DENIAL_BYTES = 64 * 1024


@lru_cache(maxsize=4096)
def provider_resources(
    policy: Policy, providers: tuple[ExtensionProvider, ...], port: int, *, inside: bool = True
) -> tuple[Encoded, ...]:
    """The filter configurations of a port whose CUSTOM rules ask `providers`.

    Not `inside`: at a gateway, where a certificate from outside makes no identity.
    """
    filled = filled_headers(providers)
    headers = [extension(names.provider_headers(port), outputs_filter(filled))] if filled else []
    asking = (
        resource
        for provider in providers
        for resource in (
            extension(names.ask(port, provider.name), ask_filter(policy, provider.name, port)),
            extension(
                names.provider(port, provider.name), provider_filter(provider, inside=inside)
            ),
        )
    )
    return (*headers, *asking)


def filled_headers(providers: Iterable[ExtensionProvider]) -> tuple[str, ...]:
    """Headers that providers fill, sorted."""
    return tuple(sorted({header for provider in providers for header in provider.to_upstream}))


def provider_filter(provider: ExtensionProvider, *, inside: bool) -> pb2.ExtAuthz:
    """Asks about marked requests. No answer in time, or none that can be read, is a refusal."""
    after = provider.stage is Stage.AFTER_TOKENS
    http = provider.protocol is ProviderProtocol.HTTP
    return pb2.ExtAuthz(
        grpc_service=None if http else _grpc(provider),
        http_service=_http(provider, inside=inside) if http else None,
        transport_api_version="V3",
        failure_mode_allow=False,
        status_on_error=_status(provider.status_on_error),
        filter_enabled_metadata=ask_marker(provider.name),
        metadata_context_namespaces=[names.JWT_METADATA] if after else [],
        with_request_body=_body(provider),
        allowed_headers=_patterns(provider.request_headers),
        disallowed_headers=string_pb2.ListStringMatcher(
            patterns=[string_pb2.StringMatcher(prefix=_OURS, ignore_case=True)]
        ),
        decoder_header_mutation_rules=_may_set(provider.to_upstream),
        max_denied_response_body_bytes=_MAX_DENIAL_BYTES,
        stat_prefix=provider.name,
    )


def _grpc(provider: ExtensionProvider) -> grpc_service_pb2.GrpcService:
    envoy = grpc_service_pb2.GrpcService.EnvoyGrpc(
        cluster_name=_cluster(provider), authority=_authority(provider)
    )
    return grpc_service_pb2.GrpcService(envoy_grpc=envoy, timeout=seconds(provider.timeout_s))


def _http(provider: ExtensionProvider, *, inside: bool) -> pb2.HttpService:
    added = {name: value.replace("%", "%%") for name, value in provider.additional_headers}
    if inside:
        added[CALLER_HEADER] = "%DOWNSTREAM_PEER_URI_SAN%"
    if provider.stage is Stage.AFTER_TOKENS:
        added[CLAIMS_HEADER] = f"%DYNAMIC_METADATA({names.JWT_METADATA}:{names.JWT_PAYLOAD})%"
    return pb2.HttpService(
        server_uri=http_uri_pb2.HttpUri(
            uri=f"http://{_authority(provider)}",
            cluster=_cluster(provider),
            timeout=seconds(provider.timeout_s),
        ),
        path_prefix=provider.path_prefix,
        authorization_request=pb2.AuthorizationRequest(
            headers_to_add=[base_pb2.HeaderValue(key=k, value=v) for k, v in added.items()]
        ),
        authorization_response=pb2.AuthorizationResponse(
            allowed_upstream_headers=_exactly(provider.to_upstream),
            allowed_client_headers=_patterns(provider.on_deny),
            allowed_client_headers_on_success=_patterns(provider.on_allow),
        ),
    )


def provider_cluster(provider: ExtensionProvider) -> Encoded:
    """The way to a provider on this host, in plain text."""
    name = _cluster(provider)
    place = provider.address
    address = socket_address(place, provider.port) if provider.port else pipe_address(place)
    grpc = provider.protocol is ProviderProtocol.GRPC
    cluster = cluster_pb2.Cluster(
        name=name,
        type="STATIC",
        connect_timeout=seconds(1),
        load_assignment=load_assignment(name, [address]),
        typed_extension_protocol_options=to_application(Protocol.GRPC if grpc else Protocol.HTTP),
    )
    return encode(name, cluster)


def _cluster(provider: ExtensionProvider) -> str:
    """That of the callee, if it is one; there is none if this workload may not call it."""
    if provider.service is None:
        return names.provider_cluster(provider.name)
    return names.service_cluster(*provider.service)


def _authority(provider: ExtensionProvider) -> str:
    if provider.service is None:
        return "localhost"
    namespace, name = provider.service
    return f"{name}.{namespace}.{MESH_DOMAIN}"


def _status(code: int) -> http_status_pb2.HttpStatus:
    status = http_status_pb2.HttpStatus()
    json_format.ParseDict({"code": code}, status)
    return status


def _body(provider: ExtensionProvider) -> pb2.BufferSettings | None:
    body = provider.body
    if body is None:
        return None
    return pb2.BufferSettings(max_request_bytes=body.max_bytes, pack_as_bytes=body.as_bytes)


def _may_set(headers: tuple[str, ...]) -> mutation_rules_pb2.HeaderMutationRules:
    """Of the request nothing but these: neither identity nor path."""
    allowed = regex_pb2.RegexMatcher(regex="|".join(map(re.escape, headers)))
    rules = mutation_rules_pb2.HeaderMutationRules(allow_expression=allowed if headers else None)
    rules.disallow_all.value = True
    return rules


def _exactly(headers: Iterable[str]) -> string_pb2.ListStringMatcher | None:
    patterns = [string_pb2.StringMatcher(exact=h, ignore_case=True) for h in headers]
    return string_pb2.ListStringMatcher(patterns=patterns) if patterns else None


def _patterns(headers: HeaderPatterns) -> string_pb2.ListStringMatcher | None:
    if not headers.names:
        return None
    return string_pb2.ListStringMatcher(patterns=[_pattern(name) for name in headers.names])


def _pattern(name: str) -> string_pb2.StringMatcher:
    if name == "*":
        everything = regex_pb2.RegexMatcher(regex=".*")
        return string_pb2.StringMatcher(safe_regex=everything)
    if name.endswith("*"):
        return string_pb2.StringMatcher(prefix=name[:-1], ignore_case=True)
    if name.startswith("*"):
        return string_pb2.StringMatcher(suffix=name[1:], ignore_case=True)
    return string_pb2.StringMatcher(exact=name, ignore_case=True)
