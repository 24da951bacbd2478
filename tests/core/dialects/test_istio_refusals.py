"""Istio documents that are refused, with every word of the diagnostic (`istio_refusals.txt`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.core.dialects.documents import read
from tests.core.dialects.istio_documents import document, found, istio_is_on

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures(istio_is_on.__name__)

TABLE = Path(__file__).with_name("istio_refusals.txt")


def cases() -> Iterator[tuple[str, list[str]]]:
    """What is written, and the findings about it."""
    text = TABLE.read_text(encoding="utf-8")
    written, expected = "", list[str]()
    for line in text.splitlines():
        if line.startswith("    "):
            expected.append(line.strip())
        elif line and not line.startswith("#"):
            if written:
                yield written, expected
            written, expected = line, []
    yield written, expected


@pytest.mark.parametrize(("written", "expected"), list(cases()), ids=lambda v: str(v)[:80])
def test_document_is_refused_with_its_exact_diagnostic(written: str, expected: list[str]) -> None:
    spec, _, annotations = written[2:].partition("  # annotations ")
    resources, diagnostics = read(document(written[0], spec, annotations or "{}"))
    assert not resources
    assert [str(d).split(": ", 1)[1] for d in diagnostics] == expected
    assert all(d.line == (3 if d.path.startswith("/metadata") else 4) for d in diagnostics)


def test_the_table_is_whole() -> None:
    assert len(list(cases())) >= 200
    assert all(expected for _, expected in cases())


@pytest.mark.parametrize("kind", ["A", "P", "R"])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("apiVersion: security.istio.io/v1alpha1", "unknown-version"),
        ("apiVersion: security.istio.io/v2", "unknown-version"),
        ("apiVersion: v1", "unknown-kind"),
    ],
)
def test_other_versions_are_refused(kind: str, text: str, code: str) -> None:
    written = document(kind, "{}").replace("apiVersion: security.istio.io/v1", text, 1)
    assert [d.code for d in read(written)[1]] == [code]


@pytest.mark.parametrize("kind", ["A", "P", "R"])
def test_a_document_without_spec_is_refused(kind: str) -> None:
    (finding,) = read(document(kind, "{}").replace("spec: {}\n", ""))[1]
    assert (finding.code, finding.message) == ("missing-field", "the field spec is missing")


@pytest.mark.parametrize("kind", ["A", "P", "R"])
def test_spec_without_a_value_is_refused(kind: str) -> None:
    assert [d.code for d in found(kind, "")] == ["null-value"]


def test_a_password_in_an_address_is_not_repeated() -> None:
    spec = "{jwtRules: [{issuer: a, jwksUri: 'https://bob:hunter2@idp.example/k'}]}"
    assert "hunter2" not in " ".join(map(str, found("R", spec)))


def test_a_secret_key_is_not_repeated() -> None:
    keys = '{"keys": [{"kty": "oct", "k": "aHVudGVyMg"}]}'
    diagnostics = found("R", f"{{jwtRules: [{{issuer: a, jwks: '{keys}'}}]}}")
    assert [d.code for d in diagnostics] == ["bad-jwks"]
    assert "aHVudGVyMg" not in str(diagnostics[0])


@pytest.mark.parametrize(
    "keys",
    ["[" * 60_000, '{"keys":' * 20_000, '{"keys": [' + "{}," * 200 + "{}]}", '{"keys": [1e999]}'],
    ids=["deep-list", "deep-object", "many", "infinite"],
)
def test_hostile_key_sets_are_refused(keys: str) -> None:
    (finding,) = found("R", f"{{jwtRules: [{{issuer: a, jwks: '{keys}'}}]}}")
    assert finding.code in {"bad-jwks", "bad-value"}


def test_a_key_set_that_is_too_large_is_refused() -> None:
    keys = '{"keys": [], "pad": "' + "x" * 65_000 + "ü" * 500 + '"}'
    assert [d.code for d in found("R", f"{{jwtRules: [{{issuer: a, jwks: '{keys}'}}]}}")] == [
        "bad-jwks"
    ]
