"""Verdicts of Rego policies: values of the decision rule, and the input that a proxy gives."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from limen.core.policy.engine import AccessRequest, Answer, HttpRequest
from limen.core.policy.rego.decision import verdict_of
from limen.core.policy.rego.engine import RegoEngine, load_rego
from limen.core.policy.rego.envoy_input import envoy_input
from limen.core.policy.rego.source import RegoModule

NOW = dt.datetime(2026, 3, 4, 5, 6, 7, 8, dt.UTC)


def engine(text: str, entry: str = "t/p", *data: bytes) -> RegoEngine:
    return load_rego([RegoModule("t.rego", f"package t\n{text}")], data, entry)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (True, Answer.PERMIT),
        (False, Answer.DENY),
        (None, Answer.INDETERMINATE),
        (1, Answer.INDETERMINATE),
        ("true", Answer.INDETERMINATE),
        ({"allow": True}, Answer.INDETERMINATE),
        ({"allowed": "true"}, Answer.INDETERMINATE),
        ({"allowed": True}, Answer.PERMIT),
        ({"allowed": False}, Answer.DENY),
        ({"allowed": True, "dynamic_metadata": {}}, Answer.INDETERMINATE),
        ({"allowed": True, "headers": {"a": 1}}, Answer.INDETERMINATE),
        ({"allowed": False, "http_status": 200}, Answer.INDETERMINATE),
        ({"allowed": False, "http_status": True}, Answer.INDETERMINATE),
        ({"allowed": True, "headers": []}, Answer.INDETERMINATE),
        ({"allowed": True, "request_headers_to_remove": "a"}, Answer.INDETERMINATE),
        ({"allowed": True, "query_parameters_to_set": {}}, Answer.INDETERMINATE),
    ],
)
def test_only_a_clear_yes_permits(value: Any, answer: Answer):
    assert verdict_of(value).answer is answer


def test_refusal_carries_status_headers_and_body():
    verdict = verdict_of(
        {"allowed": False, "http_status": 401, "headers": {"a": "b"}, "body": "no"}
    )
    assert (verdict.status, verdict.headers, verdict.body) == (401, {"a": "b"}, "no")


def test_permission_may_change_headers():
    verdict = verdict_of(
        {
            "allowed": True,
            "headers": {"X-A": ["1", "2"]},
            "response_headers_to_add": {"x-b": "3"},
            "request_headers_to_remove": ["x-c"],
        }
    )
    assert verdict.headers == {"x-a": "1, 2"}
    assert verdict.response_headers == {"x-b": "3"}
    assert verdict.removed == ("x-c",)


@pytest.mark.parametrize("text", ["p if input.nothing", "p := 1 / input.zero", "p := {1: 2}[3]"])
def test_what_is_undefined_or_fails_is_indeterminate(text: str):
    request = AccessRequest(context={"zero": 0})
    assert engine(text).judge(request, NOW).answer is Answer.INDETERMINATE


def test_four_parts_of_a_request_are_the_input():
    text = 'p if { input.subject.id == "ann"; input.action.name == "read"; input.context.n == 1 }'
    request = AccessRequest({"id": "ann"}, {"name": "read"}, {"id": "r"}, {"n": 1})
    assert engine(text).judge(request, NOW).answer is Answer.PERMIT


def test_data_documents_are_read_and_the_engine_keeps_nothing_between_requests():
    judge = engine('default p := false\np if "admin" in data.r[input.subject.id]', "t/p",
                   b'{"r": {"ann": ["admin"]}}')  # fmt: skip
    answers = [judge.judge(AccessRequest({"id": n}), NOW).answer for n in ("ann", "bob", "ann")]
    assert answers == [Answer.PERMIT, Answer.DENY, Answer.PERMIT]


def test_time_of_the_language_is_the_time_of_the_request():
    judge = engine("p := time.now_ns()")
    assert judge.evaluate({}, NOW) == 1_772_600_767_000_008_000


REQUEST = HttpRequest(
    "POST",
    "/people/a%20b?x=1&x=2&y=",
    {"content-type": "application/json; charset=utf-8", "authorization": "Bearer t"},
    host="people",
    source="spiffe://m/ns/a/sa/b",
    body=b'{"firstname": "Ann"}',
)


def test_input_is_what_users_of_the_envoy_plugin_know():
    assert envoy_input(REQUEST, NOW) == {
        "attributes": {
            "request": {
                "time": "2026-03-04T05:06:07.000008Z",
                "http": {
                    "method": "POST",
                    "path": "/people/a%20b?x=1&x=2&y=",
                    "host": "people",
                    "scheme": "http",
                    "protocol": "HTTP/1.1",
                    "headers": dict(REQUEST.headers),
                    "body": '{"firstname": "Ann"}',
                    "size": "20",
                },
            },
            "source": {"principal": "spiffe://m/ns/a/sa/b"},
            "destination": {},
        },
        "parsed_path": ["people", "a b"],
        "parsed_query": {"x": ["1", "2"], "y": [""]},
        "parsed_body": {"firstname": "Ann"},
        "truncated_body": False,
        "version": {"encoding": "protojson", "ext_authz": "v3"},
    }


@pytest.mark.parametrize("path", ["//admin/secret", "///admin/secret", "/admin/secret?/x"])
def test_path_that_looks_like_an_address_keeps_all_of_its_parts(path: str):
    assert envoy_input(HttpRequest("GET", path, {}), NOW)["parsed_path"] == ["admin", "secret"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "text/plain"}, b"{}"),
        ({"content-type": "application/json"}, None),
        ({"content-type": "application/json", "x-envoy-auth-partial-body": "true"}, b"{"),
    ],
)
def test_body_that_is_not_whole_or_of_another_type_is_not_parsed(headers: Any, body: Any):
    request = HttpRequest("GET", "/", headers, body=body)
    assert "parsed_body" not in envoy_input(request, NOW)


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
def test_body_that_cannot_be_parsed_is_indeterminate(body: bytes):
    request = HttpRequest("GET", "/", {"content-type": "application/json"}, body=body)
    verdict = engine("p := true").judge(AccessRequest(http=request), NOW)
    assert verdict.answer is Answer.INDETERMINATE
