"""Values of sources and of requests: each of the datatype that was asked for, or none."""

from __future__ import annotations

from typing import Any

import pytest

from limen.core.model.attribute_source import AttributeName
from limen.core.policy.engine import AccessRequest, HttpRequest
from limen.core.policy.request_values import values_in
from limen.core.policy.sources import MAX_VALUE_CHARS, to_text, to_value


@pytest.mark.parametrize(
    ("value", "datatype", "text"),
    [
        (True, "boolean", "true"),
        (False, "boolean", "false"),
        (1, "boolean", "true"),
        (0, "boolean", "false"),
        (2, "integer", "2"),
        (2, "double", "2"),
        (2.5, "double", "2.5"),
        ("+2", "integer", "+2"),
        ("x" * MAX_VALUE_CHARS, "string", "x" * MAX_VALUE_CHARS),
    ],
)
def test_a_value_becomes_the_text_of_its_datatype(value: Any, datatype: str, text: str):
    assert to_text(value, datatype, "f") == text


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        (True, "integer"), (True, "string"), (2, "boolean"), (2, "string"), (2.5, "integer"),
        (2.5, "string"), ("2.5", "integer"), ("two", "integer"), (None, "string"), ({}, "string"),
        ("x" * (MAX_VALUE_CHARS + 1), "string"),
    ],
)  # fmt: skip
def test_a_value_of_another_datatype_is_refused(value: Any, datatype: str):
    with pytest.raises(ValueError, match=rf"f is (no {datatype}|too long)"):
        to_text(value, datatype, "f")


@pytest.mark.parametrize(
    ("text", "datatype", "value"),
    [
        ("true", "boolean", True),
        (" 1 ", "boolean", True),
        ("false", "boolean", False),
        ("0", "boolean", False),
        ("7", "integer", 7),
        ("7.5", "double", 7.5),
        ("7", "string", "7"),
    ],
)
def test_a_text_becomes_the_value_of_its_datatype(text: str, datatype: str, value: Any):
    found = to_value(text, datatype)
    assert found == value
    assert type(found) is type(value)


def test_a_text_that_is_no_boolean_is_refused():
    with pytest.raises(ValueError, match="'maybe' is no boolean"):
        to_value("maybe", "boolean")


REQUEST = AccessRequest(
    {"type": "user", "id": "ann", "properties": {"age": 7, "wards": ["east", 3], "on": True}},
    {"name": "read", "id": "not an attribute", "properties": {"why": "x"}},
    {"type": "record", "id": "r1", "properties": {"id": "hidden"}},
    {"hour": 9},
)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (AttributeName("subject", "id"), ["ann"]),
        (AttributeName("subject", "type"), ["user"]),
        (AttributeName("resource", "id"), ["r1"]),
        (AttributeName("resource", "type"), ["record"]),
        (AttributeName("action", "name"), ["read"]),
        (AttributeName("action", "id"), []),
        (AttributeName("action", "why"), ["x"]),
        (AttributeName("subject", "wards"), ["east"]),
        (AttributeName("subject", "wards", "integer"), [3]),
        (AttributeName("subject", "age"), []),
        (AttributeName("subject", "age", "integer"), [7]),
        (AttributeName("subject", "age", "double"), [7]),
        (AttributeName("subject", "on", "integer"), []),
        (AttributeName("subject", "on", "boolean"), [True]),
        (AttributeName("environment", "hour", "integer"), [9]),
        (AttributeName("planet", "id"), []),
    ],
)
def test_an_attribute_has_the_values_of_its_datatype(name: AttributeName, values: list[Any]):
    assert values_in(REQUEST, name) == values


SEEN = AccessRequest(
    {"id": "said"}, {"name": "said"}, {"id": "said"},
    http=HttpRequest("GET", "/a?b", {"x-ward": "west"}, source="spiffe://d/ann"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("category", "name", "values"),
    [
        ("subject", "id", ["spiffe://d/ann"]),
        ("resource", "id", ["/a"]),
        ("action", "name", ["GET"]),
        ("environment", "urn:limen:http:header:x-ward", ["west"]),
        ("environment", "urn:limen:http:header:x-other", []),
    ],
)
def test_what_a_proxy_saw_counts_before_what_is_said(category: str, name: str, values: list[str]):
    assert values_in(SEEN, AttributeName(category, name)) == values
