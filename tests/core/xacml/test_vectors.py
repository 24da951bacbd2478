"""The public conformance cases, where their folder is present."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.core.xacml.builders import NOW

from limen.adapters.policy_files import Case, find_cases
from limen.core.policy.xacml.conformance import CaseDocuments, judge_case

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "xacml3"
CASES = list(find_cases(FOLDER)) if FOLDER.is_dir() else []


def read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


@pytest.mark.skipif(not CASES, reason=f"no conformance cases in {FOLDER}")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case):
    documents = CaseDocuments(
        [path.read_bytes() for path in case.policies],
        read(case.request),
        read(case.response),
        read(case.attributes),
    )
    assert judge_case(documents, NOW) == []


@pytest.mark.skipif(not CASES, reason=f"no conformance cases in {FOLDER}")
def test_every_case_was_found():
    assert len(CASES) >= 288
