"""`limen.dev/v1` XacmlPolicy and RegoPolicy: texts for the engines of the decision point.

Judged here as documents only; whether an engine can load them is found out where one may die.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import objects, text
from limen.core.dialects.schema import Choice, Field, ListOf, Struct, Text
from limen.core.model.decision import (
    DecisionPolicy,
    EnforcedAt,
    Language,
    OnStale,
    PolicyText,
)
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_TEXT = 4 * 1024 * 1024
_MAX_TEXTS = 10_000
_FILE = Text(
    "a file's name",
    max_length=253,
    pattern=re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII),
    hint="write letters, digits, . _ - and /",
)


def _parse_json(value: str) -> None:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidInput("the data is not JSON", code="bad-value", hint="mend it") from None


def _texts(field: str, content: Text, note: str, *, required: bool) -> Field:
    one = Struct({"name": Field(_FILE, required=True), field: Field(content, required=True)})
    return Field(ListOf(one, maximum=_MAX_TEXTS), required=required, note=note)


def _distinct(field: str) -> Callable[[JsonObject, str, Findings], None]:
    def check(spec: JsonObject, path: str, out: Findings) -> None:
        names = [text(one, "name") for one in objects(spec, field)]
        for index, name in enumerate(names):
            if name in names[:index]:
                place = child(child(path, field), index)
                out.error("duplicate-name", f"the file {show(name)} stands twice", place)

    return check


_COMMON = {
    "enforcedAt": Field(
        Choice(tuple(e.value for e in EnforcedAt)),
        note="Service if absent; a gateway holds only policies that say Gateway",
    ),
    "onStale": Field(
        Choice(tuple(o.value for o in OnStale)),
        note="cut off for longer than the mesh's maxStaleness; Refuse if absent",
    ),
}
_XML = Text("a policy", max_length=_MAX_TEXT)
_REGO = Text("a module", max_length=_MAX_TEXT)
_JSON = Text("a JSON document", max_length=_MAX_TEXT, parse=_parse_json)

XACML_POLICY = Struct(
    {
        "policies": _texts("xml", _XML, "Policy and PolicySet documents", required=True),
        "root": Field(
            Text("a policy's identifier", max_length=2048),
            note="the policy to begin with; the only one that no other refers to if absent",
        ),
        **_COMMON,
    },
    (_distinct("policies"),),
)
REGO_POLICY = Struct(
    {
        "modules": _texts("rego", _REGO, "modules", required=True),
        "data": _texts("json", _JSON, "data documents", required=False),
        "root": Field(
            Text(
                "a decision",
                max_length=512,
                pattern=re.compile(r"[A-Za-z0-9_]+(?:/[A-Za-z0-9_]+)+", re.ASCII),
                hint="write PACKAGE/RULE, envoy/authz/allow",
            ),
            note="the decision, as PACKAGE/RULE; envoy/authz/allow if absent",
        ),
        **_COMMON,
    },
    (_distinct("modules"), _distinct("data")),
)


def to_xacml_policy(_namespace: str, _metadata: JsonObject, spec: JsonObject) -> DecisionPolicy:
    """A checked spec."""
    return _to_policy(Language.XACML, _to_texts(spec, "policies", "xml"), (), spec)


def to_rego_policy(_namespace: str, _metadata: JsonObject, spec: JsonObject) -> DecisionPolicy:
    """A checked spec."""
    data = _to_texts(spec, "data", "json")
    return _to_policy(Language.REGO, _to_texts(spec, "modules", "rego"), data, spec)


def _to_policy(
    language: Language,
    texts: tuple[PolicyText, ...],
    data: tuple[PolicyText, ...],
    spec: JsonObject,
) -> DecisionPolicy:
    return DecisionPolicy(
        language,
        texts,
        text(spec, "root"),
        data,
        EnforcedAt(text(spec, "enforcedAt", EnforcedAt.SERVICE.value)),
        OnStale(text(spec, "onStale", OnStale.REFUSE.value)),
    )


def _to_texts(spec: JsonObject, field: str, content: str) -> tuple[PolicyText, ...]:
    found = objects(spec, field)
    return tuple(PolicyText(text(one, "name"), text(one, content)) for one in found)
