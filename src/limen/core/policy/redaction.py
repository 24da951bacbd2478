"""The obligation `redact`: fields taken out of a document before it is given away.

`field` is a JSON pointer (RFC 6901), or several; `*` stands for every member or element. What a
pointer does not find needs no hiding.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.policy.engine import Duty

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+")
MAX_POINTERS = 1_000


def redacted(document: Any, duties: Iterable[Duty]) -> Any:
    """A copy of `document` without the fields that `duties` name; the document if there are none.

    Raises ValueError: no document, no pointer, something that is not one.
    """
    pointers = [pointer for duty in duties for pointer in _pointers(duty)]
    if not pointers:
        return document
    if document is None:
        raise ValueError("the obligation redact needs the document that is given away")
    found = copy.deepcopy(document)
    for pointer in pointers:
        _remove(found, [_plain(part) for part in pointer.split("/")[1:]])
    return found


def _pointers(duty: Duty) -> list[str]:
    unknown = set(duty.attributes) - {"field"}
    given = duty.attributes.get("field", [])
    fields = given if isinstance(given, list) else [given]
    if unknown or not fields or len(fields) > MAX_POINTERS:
        raise ValueError("the obligation redact has attributes that are not understood")
    for pointer in fields:
        if not isinstance(pointer, str) or not _POINTER.fullmatch(pointer):
            raise ValueError("the obligation redact has a field that is no JSON pointer")
    return fields


def _plain(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def _remove(value: Any, path: list[str]) -> None:
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        names = list(value) if first == "*" else [first] if first in value else []
        for name in names:
            if rest:
                _remove(value[name], rest)
            else:
                del value[name]
    elif isinstance(value, list):
        if first == "*":
            places = list(range(len(value)))
        elif first.isascii() and first.isdigit() and int(first) < len(value):
            places = [int(first)]
        else:
            places = []
        for place in reversed(places):
            if rest:
                _remove(value[place], rest)
            else:
                del value[place]
