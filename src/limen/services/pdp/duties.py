"""What a proxy does for an obligation: a line in the log, headers, a challenge to step up.

Everything is read before anything is done: a decision with one obligation that cannot be carried
out leaves no trace but its refusal. Names may be written with or without `urn:limen:obligation:`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.policy.engine import BODY_DUTY, OBLIGATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.core.policy.engine import Duty

_QUOTED = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,500}")


@dataclass(slots=True)
class Due:
    """What is to be done. `challenge` not empty: the request is answered with 401 and it."""

    lines: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    challenge: str = ""


def read_duties(duties: Sequence[Duty]) -> Due:
    """Raises ValueError for an obligation that a proxy cannot carry out, and says why."""
    due = Due()
    for duty in duties:
        match duty.id.removeprefix(OBLIGATION):
            case "log":
                line = {"obligation": "log", "attributes": dict(duty.attributes)}
                due.lines.append(json.dumps(line))
            case "set-header":
                for header, value in duty.attributes.items():
                    if not isinstance(value, str):
                        message = f"the obligation set-header has several values for {header}"
                        raise ValueError(message)  # noqa: TRY004 - a policy's value
                    due.headers[header.lower()] = value
            case "step-up":
                due.challenge = challenge(duty.attributes)
            case name if name == BODY_DUTY:
                raise ValueError(
                    f"the obligation {duty.id} is for an application: a proxy has no body"
                )
            case _:
                raise ValueError(f"the obligation {duty.id} cannot be carried out by a proxy")
    return due


def challenge(attributes: Mapping[str, Any]) -> str:
    """`WWW-Authenticate` of RFC 9470: `acr_values` and `max_age` that would do.

    `challenge` is taken as it is. Raises ValueError for what a header cannot hold.
    """
    written = attributes.get("challenge")
    if written is not None:
        return str(written)
    parts = {"error": "insufficient_user_authentication"}
    for name in ("error_description", "acr_values", "max_age"):
        value = attributes.get(name)
        if value is not None:
            parts[name] = " ".join(value) if isinstance(value, list) else str(value)
    for name, value in parts.items():
        if not _QUOTED.fullmatch(value):
            raise ValueError(f"the obligation step-up has a {name} that a header cannot hold")
    if not parts.get("max_age", "0").isdecimal():
        raise ValueError("the obligation step-up has a max_age that is no number of seconds")
    return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parts.items())
