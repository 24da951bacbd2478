"""Warnings about Istio documents that are valid: rules that never apply, denials by path."""

from __future__ import annotations

import time

import pytest
from tests.core.dialects.documents import read
from tests.core.dialects.istio_documents import document, found, istio_is_on

pytestmark = pytest.mark.usefixtures(istio_is_on.__name__)


def source(fields: str) -> str:
    return f"{{rules: [{{from: [{{source: {{{fields}}}}}]}}]}}"


def operation(fields: str, action: str = "ALLOW") -> str:
    provider = "provider: {name: p}, " if action == "CUSTOM" else ""
    return f"{{action: {action}, {provider}rules: [{{to: [{{operation: {{{fields}}}}}]}}]}}"


def when(*entries: str) -> str:
    return f"{{rules: [{{when: [{', '.join(f'{{{entry}}}' for entry in entries)}]}}]}}"


FIRST_SOURCE, FIRST_OPERATION = "/spec/rules/0/from/0/source", "/spec/rules/0/to/0/operation"

WARNED = [
    (
        "A",
        source("namespaces: [a, b], notNamespaces: [b, a]"),
        "never-matches",
        f"{FIRST_SOURCE}/notNamespaces",
    ),
    (
        "A",
        source("principals: [td/ns/a/sa/b], notPrincipals: ['*/sa/b']"),
        "never-matches",
        f"{FIRST_SOURCE}/notPrincipals",
    ),
    (
        "A",
        source("principals: ['*'], notPrincipals: ['*']"),
        "never-matches",
        f"{FIRST_SOURCE}/notPrincipals",
    ),
    (
        "A",
        source("requestPrincipals: [i/s], notRequestPrincipals: ['*']"),
        "never-matches",
        f"{FIRST_SOURCE}/notRequestPrincipals",
    ),
    (
        "A",
        source("serviceAccounts: [a/b], notServiceAccounts: [a/b]"),
        "never-matches",
        f"{FIRST_SOURCE}/notServiceAccounts",
    ),
    (
        "A",
        source("ipBlocks: [10.1.0.0/16], notIpBlocks: [10.0.0.0/8]"),
        "never-matches",
        f"{FIRST_SOURCE}/notIpBlocks",
    ),
    ("A", source("ipBlocks: [10.1.2.3/16]"), "address-masked", f"{FIRST_SOURCE}/ipBlocks/0"),
    (
        "A",
        source("notRemoteIpBlocks: ['2001:db8::1/32']"),
        "address-masked",
        f"{FIRST_SOURCE}/notRemoteIpBlocks/0",
    ),
    (
        "A",
        operation("hosts: [A.example], notHosts: ['*.EXAMPLE']"),
        "never-matches",
        f"{FIRST_OPERATION}/notHosts",
    ),
    (
        "A",
        operation("methods: [GET], notMethods: [GET, POST]"),
        "never-matches",
        f"{FIRST_OPERATION}/notMethods",
    ),
    (
        "A",
        operation("ports: ['80'], notPorts: ['80']"),
        "never-matches",
        f"{FIRST_OPERATION}/notPorts",
    ),
    (
        "A",
        operation("paths: [/admin], methods: [GET]", "DENY"),
        "deny-by-path",
        f"{FIRST_OPERATION}/paths",
    ),
    ("A", operation("paths: ['/{**}']", "DENY"), "deny-by-path", f"{FIRST_OPERATION}/paths"),
    ("A", operation("paths: [/admin]", "CUSTOM"), "deny-by-path", f"{FIRST_OPERATION}/paths"),
    ("A", operation("notPaths: [/admin*]"), "deny-by-path", f"{FIRST_OPERATION}/notPaths"),
    (
        "A",
        when("key: source.namespace, values: [a], notValues: ['*']"),
        "never-matches",
        "/spec/rules/0/when/0/notValues",
    ),
    (
        "A",
        when("key: source.namespace, values: [a]", "key: source.namespace, values: [b, c]"),
        "never-matches",
        "/spec/rules/0/when/1/values",
    ),
    (
        "A",
        when("key: source.ip, values: [10.0.0.1], notValues: [10.0.0.0/31]"),
        "never-matches",
        "/spec/rules/0/when/0/notValues",
    ),
    (
        "A",
        when("key: destination.ip, notValues: [10.0.0.1/24]"),
        "address-masked",
        "/spec/rules/0/when/0/notValues/0",
    ),
    ("A", "{action: AUDIT}", "no-effect", "/spec"),
    ("R", "{}", "no-effect", "/spec"),
    (
        "R",
        (
            "{jwtRules: [{issuer: 'https://a.example'}, "
            "{issuer: 'https://a.example', audiences: [x]}]}"
        ),
        "issuer-twice",
        "/spec/jwtRules/1",
    ),
]


@pytest.mark.parametrize(("kind", "spec", "code", "path"), WARNED)
def test_valid_and_warned_about(kind: str, spec: str, code: str, path: str) -> None:
    resources, diagnostics = read(document(kind, spec))
    assert [(d.code, d.path, d.severity.value) for d in diagnostics] == [(code, path, "warning")]
    assert all(d.hint for d in diagnostics)
    assert len(resources) == 1


QUIET = [
    source("namespaces: [a, b], notNamespaces: [b]"),
    source("principals: ['*'], notPrincipals: [td/ns/a/sa/b]"),
    source("requestPrincipals: [a/b/c], notRequestPrincipals: [a/*]"),
    source("ipBlocks: [10.0.0.0/8, '::1/128'], notIpBlocks: [10.1.0.0/16]"),
    source("ipBlocks: [10.0.0.0/8], notIpBlocks: ['::/0']"),
    operation("paths: [/a]"),
    operation("notPaths: [/a]", "DENY"),
    operation("paths: [/a]", "AUDIT"),
    operation("paths: ['/{*}']"),
    when(
        "key: 'request.auth.claims[g]', values: [a]", "key: 'request.auth.claims[g]', values: [b]"
    ),
    when("key: 'request.headers[x]', values: [a]", "key: 'request.headers[x]', values: [b]"),
    when("key: source.namespace, values: [a*]", "key: source.namespace, values: [b]"),
    when("key: source.ip, values: [10.0.0.0/8]", "key: source.ip, values: [10.0.0.1]"),
]


@pytest.mark.parametrize("spec", QUIET)
def test_what_may_apply_is_not_warned_about(spec: str) -> None:
    assert found("A", spec) == ()


def test_large_lists_are_judged_quickly() -> None:
    many = ", ".join(f"n{i}*" for i in range(9_000))
    started = time.process_time()
    found("A", source(f"namespaces: [{many}], notNamespaces: [{many}]"))
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("R", f"{{jwtRules: [{{issuer: 'https://a', fromCookies: ['{'a' * 1000};']}}]}}"),
        ("R", f"{{jwtRules: [{{issuer: 'https://a', outputPayloadToHeader: '{'a-' * 60};'}}]}}"),
        ("A", source(f"principals: ['{'a.' * 900}/ns/{'a' * 200}*']")),
        ("A", source(f"principals: ['*{'/sa' * 600}/']")),
        ("A", operation(f"paths: ['/{'{*}/' * 450}{{**}}/x!!']")),
        ("A", when(f"key: 'request.auth.claims{'[a]' * 330}[', values: [a]")),
    ],
    ids=["cookie", "header", "prefix", "suffix", "template", "key"],
)
def test_hostile_texts_are_judged_quickly(kind: str, spec: str) -> None:
    started = time.process_time()
    found(kind, spec)
    assert time.process_time() - started < 2
