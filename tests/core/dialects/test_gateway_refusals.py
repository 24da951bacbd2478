"""Documents of edge and routing that are refused, with every word (`gateway_refusals.txt`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.core.dialects.documents import read
from tests.core.dialects.gateway_documents import KINDS, document, edge_is_on, found

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures(edge_is_on.__name__)

TABLE = Path(__file__).with_name("gateway_refusals.txt")


def cases() -> Iterator[tuple[str, list[str]]]:
    """What is written, and the findings about it."""
    written, expected = "", list[str]()
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            expected.append(line.strip())
        elif line and not line.startswith("#"):
            if written:
                yield written, expected
            written, expected = line, []
    yield written, expected


@pytest.mark.parametrize(("written", "expected"), list(cases()), ids=lambda v: str(v)[:80])
def test_document_is_refused_with_its_exact_diagnostic(written: str, expected: list[str]) -> None:
    kind, _, spec = written.partition(" ")
    resources, diagnostics = read(document(kind, spec))
    assert not resources
    assert [str(d).split(": ", 1)[1] for d in diagnostics] == expected
    assert all(d.line == 4 for d in diagnostics)


def test_the_table_is_whole() -> None:
    table = list(cases())
    assert len(table) >= 290
    assert all(expected for _, expected in table)
    assert {written.partition(" ")[0] for written, _ in table} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_without_spec_is_refused(kind: str) -> None:
    (finding,) = read(document(kind, "{}").replace("spec: {}\n", ""))[1]
    assert (finding.code, finding.message) == ("missing-field", "the field spec is missing")


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("IG", "networking.istio.io/v2"),
        ("KG", "gateway.networking.k8s.io/v1alpha2"),
        ("GR", "gateway.networking.k8s.io/v1beta1"),
        ("TR", "gateway.networking.k8s.io/v1alpha2"),
    ],
)
def test_other_versions_are_refused(kind: str, version: str) -> None:
    assert [d.code for d in read(document(kind, "{}", version))[1]] == ["unknown-version"]


WARNED = [
    (
        "VS",
        (
            "{hosts: [a.example], gateways: [e], http: [{route: [{destination: {host: a}}]},"
            " {route: [{destination: {host: b}}]}]}"
        ),
        "never-matches",
        "/spec/http/1",
    ),
    (
        "VS",
        (
            "{hosts: [a.example], gateways: [e], http: [{match: [{headers: {x-a: {exact: b}},"
            " withoutHeaders: {x-a: {exact: b}}}], route: [{destination: {host: a}}]}]}"
        ),
        "never-matches",
        "/spec/http/0/match/0/withoutHeaders/x-a",
    ),
    ("DR", "{host: web}", "no-effect", "/spec"),
    ("HR", "{parentRefs: [{name: e}], rules: [{}]}", "no-effect", "/spec/rules/0"),
    (
        "GR",
        "{parentRefs: [{name: e}], rules: [{backendRefs: [{name: a, port: 1, weight: 0}]}]}",
        "no-effect",
        "/spec/rules/0",
    ),
    (
        "IG",
        (
            "{selector: {a: b}, servers: [{port: {number: 443, name: x, protocol: HTTPS},"
            " hosts: ['*'], tls: {mode: SIMPLE, credentialName: c, httpsRedirect: true}}]}"
        ),
        "no-effect",
        "/spec/servers/0/tls/httpsRedirect",
    ),
]


@pytest.mark.parametrize(("kind", "spec", "code", "path"), WARNED)
def test_what_is_odd_is_warned_about(kind: str, spec: str, code: str, path: str) -> None:
    resources, diagnostics = read(document(kind, spec))
    assert len(resources) == 1
    assert [(d.code, d.path) for d in diagnostics] == [(code, path)]


def test_many_hosts_are_judged_quickly() -> None:
    hosts = ", ".join(f"h{n}.example" for n in range(200))
    route = "[{route: [{destination: {host: a}}]}]"
    assert not found("VS", f"{{hosts: [{hosts}], gateways: [e], http: {route}}}")
