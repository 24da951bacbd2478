"""Istio's documents for tests: the kinds switched on, documents built around a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.core.dialects.documents import read

from limen.core.dialects import kinds

if TYPE_CHECKING:
    from limen.core.model.diagnostic import Diagnostic

SHORT = {
    "A": "AuthorizationPolicy",
    "P": "PeerAuthentication",
    "R": "RequestAuthentication",
}


@pytest.fixture
def istio_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds are read as they will be once they are enforced."""
    for kind in kinds.ISTIO_SECURITY:
        monkeypatch.setitem(kinds.BY_NAME, kind.name, kind)


def document(kind: str, spec: str, annotations: str = "{}", version: str = "v1") -> str:
    """One document of four lines, of namespace `shop`; `kind` is a letter of `SHORT`."""
    return (
        f"apiVersion: security.istio.io/{version}\nkind: {SHORT[kind]}\n"
        f"metadata: {{name: p, namespace: shop, annotations: {annotations}}}\nspec: {spec}\n"
    )


def spec_of(kind: str, spec: str, annotations: str = "{}", version: str = "v1") -> object:
    """What a document that has no finding means."""
    resources, diagnostics = read(document(kind, spec, annotations, version))
    assert not diagnostics, [str(d) for d in diagnostics]
    return resources[0].spec


def found(kind: str, spec: str, annotations: str = "{}") -> tuple[Diagnostic, ...]:
    """All findings about a document."""
    return read(document(kind, spec, annotations))[1]
