"""As long as nobody enforces the kinds of the edge they are refused; one line turns them on."""

from __future__ import annotations

import pytest
from tests.core.dialects.documents import codes, read
from tests.core.dialects.gateway_documents import (
    KINDS,
    certificate,
    document,
    edge_is_on,
    key,
    pem,
    secret,
)

from limen.cli import reference
from limen.core.dialects import document_from_stored, kinds, parse_documents, stored_form

NAMES = {kind.name for kind in kinds.EDGE}
ENFORCED = {kind.name for kind in kinds.KINDS} >= NAMES


@pytest.mark.skipif(ENFORCED, reason="the kinds are enforced")
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_are_not_enforced_are_refused(kind: str) -> None:
    assert codes(document(kind, "{}")) == ["later-kind"]


@pytest.mark.skipif(ENFORCED, reason="the kinds are enforced")
def test_a_secret_that_is_not_enforced_is_refused() -> None:
    assert codes("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {}\n") == ["later-kind"]


def test_all_or_none_of_the_kinds_are_on() -> None:
    assert NAMES & {kind.name for kind in kinds.KINDS} in (set(), NAMES)
    assert ("Secret" in kinds.LATER_CORE_KINDS) is not ENFORCED


def test_compatibility_page_has_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    if not ENFORCED:
        monkeypatch.setattr(kinds, "PUBLIC", (*kinds.PUBLIC, *kinds.EDGE))
    page = reference.compatibility()
    for expected in (
        "`networking.istio.io/v1`, `networking.istio.io/v1beta1`, `networking.istio.io/v1alpha3`",
        "`spec.servers[].tls.mode: AUTO_PASSTHROUGH`",
        "`spec.http[].corsPolicy.allowOrigins[].regex`",
        "`spec.rules[].filters[].urlRewrite.path.replacePrefixMatch`",
        "`data.tls.key`",
        "honoured, never shown",
    ):
        assert expected in page, expected
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert len(headings) == len(set(headings))


on = pytest.mark.usefixtures(edge_is_on.__name__)
SERVERS = "[{port: {number: 80, name: x, protocol: HTTP}, hosts: ['*']}]"


@on
@pytest.mark.parametrize("version", ["v1beta1", "v1alpha3"])
def test_older_version_of_istio_means_the_same(version: str) -> None:
    spec = f"{{selector: {{a: b}}, servers: {SERVERS}}}"
    (new,), none = read(document("IG", spec))
    (old,), also_none = read(document("IG", spec, f"networking.istio.io/{version}"))
    assert (none, also_none) == ((), ())
    assert new == old


@on
def test_older_version_of_the_gateway_api_means_the_same() -> None:
    spec = "{gatewayClassName: limen, listeners: [{name: a, port: 80, protocol: http}]}"
    (new,), _ = read(document("KG", spec))
    (old,), _ = read(document("KG", spec, "gateway.networking.k8s.io/v1beta1"))
    assert new == old


@on
def test_stored_documents_of_every_kind_are_read_back() -> None:
    pair = secret({"tls.crt": pem(certificate(key(1))), "tls.key": pem(key(1))})
    texts = [
        document(
            "IG", f"{{selector: {{a: b}}, servers: {SERVERS}}}", "networking.istio.io/v1beta1"
        ),
        document("KG", "{gatewayClassName: x, listeners: [{name: a, port: 80, protocol: HTTP}]}"),
        pair,
    ]
    for text in texts:
        (one,), none = parse_documents(text.encode())
        assert not none
        assert document_from_stored(stored_form(one)) == one
