"""Reading fields of a body that a schema has checked: absent is empty, wrong raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.dialects.document import JsonObject


def obj(value: JsonObject, name: str) -> JsonObject:
    """The object in field `name`, empty if absent."""
    found = value.get(name, {})
    if not isinstance(found, dict):
        raise TypeError(name)
    return found


def objects(value: JsonObject, name: str) -> list[JsonObject]:
    """The objects in the list in field `name`, empty if absent."""
    found = value.get(name, [])
    if not isinstance(found, list):
        raise TypeError(name)
    result = [item for item in found if isinstance(item, dict)]
    if len(result) != len(found):
        raise TypeError(name)
    return result


def text(value: JsonObject, name: str, default: str = "") -> str:
    """The text in field `name`."""
    found = value.get(name, default)
    if not isinstance(found, str):
        raise TypeError(name)
    return found


def whole(value: JsonObject, name: str, default: int = 0) -> int:
    """The whole number in field `name`."""
    found = value.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int):
        raise TypeError(name)
    return found


def texts(value: JsonObject, name: str) -> tuple[str, ...]:
    """The texts in the list in field `name`, empty if absent."""
    found = value.get(name, [])
    if not isinstance(found, list):
        raise TypeError(name)
    result = tuple(item for item in found if isinstance(item, str))
    if len(result) != len(found):
        raise TypeError(name)
    return result
