"""Our reader's answer to every token of the corpus."""

from __future__ import annotations

import pytest
from tests.core.tokens import corpus

from limen.core.tokens.jwks import parse_jwks
from limen.core.tokens.verify import IssuerRules, verify_token
from limen.errors import Untrusted

NOW = 1_800_000_000
CORPUS = corpus.build(NOW)
RULES = IssuerRules(CORPUS.issuer, parse_jwks(CORPUS.jwks), audiences=(CORPUS.audience,))


@pytest.mark.parametrize("case", CORPUS.cases, ids=lambda case: case.name)
def test_every_token_has_its_verdict(case: corpus.Case) -> None:
    if not case.code:
        assert verify_token(case.token, RULES, NOW).issuer == CORPUS.issuer
        return
    with pytest.raises(Untrusted) as caught:
        verify_token(case.token, RULES, NOW)
    assert caught.value.code == case.code
    assert case.token[:60] not in str(caught.value) or not case.token


def test_the_corpus_is_large_and_has_both_verdicts() -> None:
    assert sum(1 for case in CORPUS.cases if case.code) >= 200
    assert sum(1 for case in CORPUS.cases if not case.code) >= 20


def test_an_empty_key_set_verifies_nothing() -> None:
    """JWKS unavailable leads to no default key (CVE-2026-31837)."""
    rules = IssuerRules(CORPUS.issuer, audiences=(CORPUS.audience,))
    for case in CORPUS.cases:
        with pytest.raises(Untrusted):
            verify_token(case.token, rules, NOW)
