"""As long as nobody enforces Istio's kinds they are refused; the page can hold them."""

from __future__ import annotations

import pytest
from tests.core.dialects.documents import codes, read
from tests.core.dialects.istio_documents import SHORT, document, istio_is_on

from limen.cli import reference
from limen.core.dialects import kinds

on = pytest.mark.usefixtures(istio_is_on.__name__)

NAMES = {kind.name for kind in kinds.ISTIO_SECURITY}
ENFORCED = {kind.name for kind in kinds.KINDS} >= NAMES


@pytest.mark.skipif(ENFORCED, reason="the kinds are enforced")
@pytest.mark.parametrize("kind", SHORT)
@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_kinds_that_are_not_enforced_are_refused(kind: str, version: str) -> None:
    assert codes(document(kind, "{}", version=version)) == ["later-kind"]


def test_all_or_none_of_the_kinds_are_on() -> None:
    assert NAMES & {kind.name for kind in kinds.KINDS} in (set(), NAMES)
    assert ("security.istio.io" in kinds.LATER) is not ENFORCED


def test_compatibility_page_has_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    if not ENFORCED:
        monkeypatch.setattr(kinds, "PUBLIC", (*kinds.PUBLIC, *kinds.ISTIO_SECURITY))
    page = reference.compatibility()
    for expected in (
        "| `security.istio.io/v1`, `security.istio.io/v1beta1` | Kubernetes |",
        "## AuthorizationPolicy",
        "`spec.rules[].from[].source.notRemoteIpBlocks`",
        "`spec.portLevelMtls`",
        "`spec.jwtRules[].outputClaimToHeaders[].claim`",
        "`limen.dev/token-required`",
        "`istio.io/dry-run`",
    ):
        assert expected in page, expected


@on
@pytest.mark.parametrize("kind", SHORT)
def test_older_version_means_the_same(kind: str) -> None:
    specs = {
        "A": "{selector: {matchLabels: {app: a}}, action: DENY, rules: [{}]}",
        "P": "{mtls: {mode: STRICT}}",
        "R": "{jwtRules: [{issuer: 'https://idp.example'}]}",
    }
    (new,), none = read(document(kind, specs[kind]))
    (old,), also_none = read(document(kind, specs[kind], version="v1beta1"))
    assert (none, also_none) == ((), ())
    assert new == old
    assert new.key.kind == f"security.istio.io/{SHORT[kind]}"
