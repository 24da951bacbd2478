"""What `limen check` says of the certificates that gateways serve with."""

from __future__ import annotations

from typing import Any

import pytest

from limen.services.agent.checks import Level, Observed, check_given_certificates

DAY = 86400.0


@pytest.mark.parametrize(
    ("status", "level", "words"),
    [
        ({"given_certificates": []}, Level.OK, "0 valid"),
        ({"given_certificates": [{"name": "a/b", "left_s": 90 * DAY}]}, Level.OK, "1 valid"),
        ({"given_certificates": [{"name": "a/b", "left_s": 3 * DAY}]}, Level.WARN, "a/b: end"),
        ({"given_certificates": [{"name": "a/b", "left_s": -1.0}]}, Level.FAIL, "a/b: expired"),
        ({"unopened_listeners": ["there is no Secret a/b"]}, Level.FAIL, "no Secret a/b"),
        (None, Level.WARN, "not checked"),
    ],
)
def test_each_state_has_its_finding(
    status: dict[str, Any] | None, level: Level, words: str
) -> None:
    finding = check_given_certificates(Observed(agent=None, server=status))
    assert (finding.level, words in finding.found) == (level, True)
    assert bool(finding.hint) is (level is not Level.OK)
