"""What Istio's documents mean (`tests/meaning/istio.yaml`), asked of `explain`.

`tests/e2e/test_meaning.py` asks a real Envoy the same.
"""

from __future__ import annotations

import pytest
from tests.meaning.corpus import GUARDED, Meaning, meanings

from limen.core.compiler.cases import run_cases

SETS = tuple(meanings())


@pytest.mark.parametrize("meaning", SETS, ids=lambda m: m.title[:60])
def test_documents_mean_what_is_written_beside_them(meaning: Meaning) -> None:
    report = run_cases(meaning.world(), meaning.cases_at(GUARDED))
    said = [f"{o.case.query}: {o.problem}" for o in report.failed]
    assert not said, "\n".join(said)


def test_the_corpus_is_whole() -> None:
    assert len(SETS) >= 40
    assert sum(len(meaning.cases) for meaning in SETS) >= 250
    text = "\n".join(meaning.documents for meaning in SETS)
    fields = (
        "principals", "requestPrincipals", "namespaces", "serviceAccounts", "ipBlocks",
        "remoteIpBlocks", "hosts", "ports", "methods", "paths",
    )  # fmt: skip
    for field in fields:
        negated = f"not{field[0].upper()}{field[1:]}"
        assert f"{{{field}:" in text or f", {field}:" in text, field
        assert f"{negated}:" in text, negated
    keys = (
        "request.headers[", "source.ip", "remote.ip", "source.namespace", "source.principal",
        "source.serviceAccount", "request.auth.principal", "request.auth.audiences",
        "request.auth.presenter", "request.auth.claims[", "destination.ip", "destination.port",
        "connection.sni",
    )  # fmt: skip
    for key in keys:
        assert f"key: {key}" in text or f'key: "{key}' in text, key
