"""Secrets given by hand, as they are stored: what they hold is sealed like the authority's keys.

A record of a Secret is `{"document": the document without data, "sealed": {...}}`. Opened bodies
are in memory only; whatever is shown is made from the record.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from limen.adapters.keys import seal, unseal
from limen.core.model.resource import SECRET
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.keys import KeyEncryption
    from limen.adapters.store import JsonValue
    from limen.core.model.resource import ResourceKey

HIDDEN = "(hidden)"
_PURPOSE = "secret"
_DATA = ("data", "stringData")

Body = dict[str, "JsonValue"]


class SecretBodies:
    """Seals and opens the bodies of Secrets; those of other kinds pass as they are."""

    def __init__(self, kek: KeyEncryption) -> None:
        self._kek = kek

    async def hide(self, key: ResourceKey, body: Mapping[str, JsonValue]) -> Body:
        """What is stored instead of `body`."""
        if key.kind != SECRET:
            return dict(body)
        document, stored = _stored(key, body)
        held = {name: document.pop(name) for name in _DATA if name in document}
        sealed = await seal(self._kek, str(key), _PURPOSE, json.dumps(held).encode())
        return {**body, "document": {**stored, "body": document}, "sealed": sealed}

    async def reveal(self, key: ResourceKey, body: Mapping[str, JsonValue]) -> Body:
        """What `hide` was given. Raises Untrusted (`wrong-kek`, `sealed-broken`)."""
        if key.kind != SECRET:
            return dict(body)
        document, stored = _stored(key, body)
        sealed = cast("Mapping[str, JsonValue]", body.get("sealed") or {})
        held = json.loads(await unseal(self._kek, str(key), _PURPOSE, sealed))
        opened = {name: value for name, value in body.items() if name != "sealed"}
        return {**opened, "document": {**stored, "body": {**document, **held}}}


def _stored(key: ResourceKey, body: Mapping[str, JsonValue]) -> tuple[Body, dict[str, Any]]:
    """Copies of the document's own body, and of what is stored around it."""
    stored = body.get("document")
    inner = stored.get("body") if isinstance(stored, dict) else None
    if not isinstance(stored, dict) or not isinstance(inner, dict):
        raise InvalidInput(f"the record of {key} is empty", code="broken-record")
    return dict(inner), dict(stored)
