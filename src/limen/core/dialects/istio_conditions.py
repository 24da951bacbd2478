"""Entries of `when`: which attribute, and which values it may be compared with.

Source: page "Authorization Policy Conditions", istio/istio `pkg/config/security` ValidateAttribute.
"""

from __future__ import annotations

import re

from limen.core.dialects import istio_patterns as patterns
from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import text
from limen.core.dialects.schema import Field, ListOf, Struct, Text, check
from limen.core.model.authorization import (
    CONDITION_KEYS,
    ConditionKey,
    ConditionKind,
    parse_condition_key,
)
from limen.errors import InvalidInput

_EXPERIMENTAL = "experimental keys are not supported; use a documented one"
REFUSED_KEYS = {
    "experimental.envoy.filters.": _EXPERIMENTAL,
    "request.experimental.inline.headers": "write request.headers[NAME]",
    "destination.labels": "choose the workload by selector",
    "destination.namespace": "put the policy into that namespace",
    "destination.name": "choose the workload by selector",
    "destination.user": "choose the workload by selector",
}
"""Keys that Istio has, or had, and that are refused: what to do instead."""

_PSEUDO = {":authority": "hosts", ":method": "methods", ":path": "paths"}
_VALUES: dict[ConditionKind, Text] = {
    ConditionKind.HEADER: patterns.HEADER_VALUE,
    ConditionKind.SOURCE_IP: patterns.ADDRESS,
    ConditionKind.REMOTE_IP: patterns.ADDRESS,
    ConditionKind.SOURCE_NAMESPACE: patterns.NAMESPACE,
    ConditionKind.SOURCE_PRINCIPAL: patterns.PRINCIPAL,
    ConditionKind.SOURCE_SERVICE_ACCOUNT: patterns.SERVICE_ACCOUNT,
    ConditionKind.REQUEST_PRINCIPAL: patterns.REQUEST_PRINCIPAL,
    ConditionKind.AUDIENCES: patterns.CLAIM_VALUE,
    ConditionKind.PRESENTER: patterns.CLAIM_VALUE,
    ConditionKind.CLAIM: patterns.CLAIM_VALUE,
    ConditionKind.DESTINATION_IP: patterns.ADDRESS,
    ConditionKind.DESTINATION_PORT: patterns.PORT,
    ConditionKind.SNI: patterns.SERVER_NAME,
}


def _check_when(entry: JsonObject, path: str, out: Findings) -> None:
    if "values" not in entry and "notValues" not in entry:
        message = "the condition compares with nothing"
        out.error("missing-field", message, path, "write values, notValues, or both")
    key = _checked_key(text(entry, "key"), child(path, "key"), out)
    if key is None:
        return
    maximum = 16 if key.kind is ConditionKind.SOURCE_SERVICE_ACCOUNT else 10_000
    for name in ("values", "notValues"):
        if name in entry:
            check(ListOf(_VALUES[key.kind], maximum), entry[name], child(path, name), out)


def _checked_key(key: str, path: str, out: Findings) -> ConditionKey | None:
    for prefix, reason in REFUSED_KEYS.items():
        if key == prefix or key.startswith((f"{prefix}[", prefix if prefix[-1] == "." else "\0")):
            out.error("refused-value", f"the key {show(key)} is not supported", path, reason)
            return None
    try:
        parsed = parse_condition_key(key)
        _check_names(parsed)
    except InvalidInput as error:
        out.error(error.code, error.message, path, error.hint)
        return None
    return parsed


def _check_names(key: ConditionKey) -> None:
    """Raises InvalidInput (code `bad-value`)."""
    if key.kind is ConditionKind.HEADER:
        _check_header_name(key.names[0])
    for name in key.names:
        if name[0] in "\"'" or name != name.strip():
            raise InvalidInput(
                f"the name {show(name)} has quotes or blanks around it",
                code="bad-value",
                hint="write it in the brackets as it is",
            )


def _check_header_name(name: str) -> None:
    if name.lower() in _PSEUDO:
        raise InvalidInput(
            f"{show(name)} is not a header",
            code="bad-value",
            hint=f"write {_PSEUDO[name.lower()]} under to: operation:",
        )
    if "_" in name:
        raise InvalidInput(
            f"no request has the header {show(name)}: names with _ are refused",
            code="bad-value",
            hint="send and match a name with -",
        )
    if not re.fullmatch(r"[A-Za-z0-9!#$%&*+.^`|~-]+", name):
        raise InvalidInput(
            f"{show(name)} is not a header's name",
            code="bad-value",
            hint="write it without quotes, like request.headers[User-Agent]",
        )


_ANY_VALUE = Text("a value", max_length=patterns.MAX_LENGTH)
WHEN = Struct(
    {
        "key": Field(
            Text("a key", max_length=1024),
            required=True,
            note=f"one of {', '.join(CONDITION_KEYS)}",
        ),
        "values": Field(ListOf(_ANY_VALUE), note="any of them"),
        "notValues": Field(ListOf(_ANY_VALUE), note="none of them"),
    },
    (_check_when,),
)
