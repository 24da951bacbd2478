"""`limen pdp evaluate --batch`: a directory of conformance cases."""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING

from limen.adapters.policy_files import find_cases, read_bounded
from limen.core.policy.xacml.conformance import CaseDocuments, judge_case
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from limen.adapters.policy_files import Case


def run_batch(directory: Path) -> bool:
    """Whether every case passed."""
    cases = list(find_cases(directory))
    if not cases:
        raise InvalidInput(f"{directory} holds no case", code="no-case", hint="see limen pdp -h")
    progress = sys.stderr.isatty()
    failed = 0
    for number, case in enumerate(cases, start=1):
        if progress:
            print(f"\r{number}/{len(cases)} {case.name:<60.60}", end="", file=sys.stderr)
        found = _judge(case)
        if found:
            failed += 1
            if progress:
                print("\r" + " " * 80 + "\r", end="", file=sys.stderr, flush=True)
            for difference in found:
                print(f"{case.name}: {difference}")
    if progress:
        print("\r" + " " * 80 + "\r", end="", file=sys.stderr, flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return failed == 0


def _judge(case: Case) -> list[str]:
    def read(path: Path | None) -> bytes | None:
        return None if path is None else read_bounded(path)

    try:
        documents = CaseDocuments(
            [read_bounded(path) for path in case.policies],
            read(case.request),
            read(case.response),
            read(case.attributes),
        )
    except InvalidInput as error:
        return [error.message]
    return judge_case(documents, dt.datetime.now(dt.UTC))
