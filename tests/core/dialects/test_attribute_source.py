"""AttributeSource documents: what they mean, and everything that is refused in them."""

from __future__ import annotations

import pytest

from limen.core.dialects.source_text import bind_query
from limen.core.dialects.sources_file import read_sources
from limen.core.model.attribute_source import (
    AttributeName,
    FileOrigin,
    GivenAttribute,
    Listing,
    PostgresOrigin,
    SourceParameter,
)
from limen.core.model.diagnostic import has_errors

PARAMETERS = "parameters: [{name: user, category: subject, attribute: id}]"
ATTRIBUTES = "attributes: [{category: subject, attribute: ward, field: ward}]"
FILE = "file: {path: a.csv, where: {doctor: user}}"


def document(*lines: str) -> bytes:
    head = "apiVersion: limen.dev/v1\nkind: AttributeSource\nmetadata: {name: a, namespace: n}\n"
    return (head + "spec:\n" + "".join(f"  {line}\n" for line in lines)).encode()


def test_every_part_of_a_source_is_read():
    sources, findings = read_sources(
        document(
            "postgres:",
            "  host: db.example",
            "  port: 6000",
            "  database: d",
            "  user: u",
            "  passwordFile: /p",
            "  caFile: /c",
            '  query: "select ward from roster where doctor = :user"',
            PARAMETERS,
            "attributes:",
            "- category: 'urn:x'",
            "  attribute: ward",
            "  dataType: integer",
            "  field: /a/b",
            "  optional: true",
            "cache: 2m",
            "timeout: 250ms",
            "maxRows: 7",
        )
    )
    assert not findings
    (source,) = sources
    query = "select ward from roster where doctor = :user"
    assert source.origin == PostgresOrigin("db.example", 6000, "d", "u", query, "/p", "/c")
    assert source.parameters == (SourceParameter("user", AttributeName("subject", "id")),)
    name = AttributeName("urn:x", "ward", "integer")
    assert source.gives == (GivenAttribute(name, "/a/b", optional=True),)
    assert (source.cache_s, source.timeout_s, source.max_rows) == (120, 0.25, 7)
    assert str(source) == "n/a"


def test_a_list_is_asked_without_parameters():
    sources, findings = read_sources(
        document("file: {path: a.json}", "lists: [{part: subject, type: user, field: id}]")
    )
    assert not findings
    assert sources[0].origin == FileOrigin("a.json", "json", ())
    assert (sources[0].lists, sources[0].max_rows) == ((Listing("subject", "id", "user"),), 1000)


def http(address: str, more: str = "") -> tuple[str, ...]:
    return (f"http: {{url: '{address}'{more}}}", PARAMETERS, ATTRIBUTES)


def sql(query: str) -> tuple[str, ...]:
    return (f"sqlite: {{path: a.db, query: {query!r}}}", PARAMETERS, ATTRIBUTES)


REFUSED = [
    ((PARAMETERS, ATTRIBUTES), "conflicting-fields"),
    ((FILE, "labels: {}", PARAMETERS, ATTRIBUTES), "conflicting-fields"),
    ((FILE, PARAMETERS), "missing-field"),
    ((FILE, ATTRIBUTES), "unknown-parameter"),
    ((FILE, PARAMETERS.replace("user", "other"), ATTRIBUTES), "unknown-parameter"),
    (("labels: {}", PARAMETERS, ATTRIBUTES), "unused-parameter"),
    (("file: {path: a.txt, where: {doctor: user}}", PARAMETERS, ATTRIBUTES), "bad-value"),
    ((FILE, PARAMETERS, ATTRIBUTES, "password: hunter2"), "unknown-field"),
    ((FILE, PARAMETERS, ATTRIBUTES, "timeout: 1m"), "out-of-range"),
    ((FILE, PARAMETERS, ATTRIBUTES.replace("field", "dataType: xpath, field")), "unknown-value"),
    (
        (FILE, PARAMETERS, ATTRIBUTES[:-1] + ", {category: subject, attribute: ward, field: w}]"),
        "duplicate-name",
    ),
    (
        (FILE, PARAMETERS, ATTRIBUTES, "lists: [{part: action, field: x}]"),
        "conflicting-fields",
    ),
    (("file: {path: a.csv}", "lists: [{part: subject, field: x}]"), "conflicting-fields"),
    (http("http://db.example/{user}"), "bad-value"),
    (http("https://u:p@db.example/{user}"), "bad-value"),
    (http("https://{user}.example/"), "bad-value"),
    (http("ftp://db.example/{user}"), "bad-value"),
    (http("https://db.example:99999999/{user}"), "bad-value"),
    (http("https://db.example/{user"), "bad-value"),
    (http("https://db.example/{user}", ", certificateFile: a"), "missing-field"),
    (http("https://db.example/{user}", ", allowedNetworks: [x]"), "bad-value"),
    (sql("delete from a where b = :user"), "bad-value"),
    (sql("select a from b where c = :user; drop table b"), "bad-value"),
    (sql("select a from b where c = ?1 or c = :user"), "bad-value"),
    (sql("select a from b where c = :user or d = @x"), "bad-value"),
    (sql("select a from b where c = 'unended :user"), "bad-value"),
    (sql("select a from b"), "unused-parameter"),
]


@pytest.mark.parametrize(("lines", "code"), REFUSED)
def test_what_a_source_may_not_say(lines: tuple[str, ...], code: str):
    sources, findings = read_sources(document(*lines), "s.yaml")
    assert has_errors(findings)
    assert not sources
    assert code in {finding.code for finding in findings}, findings
    assert "hunter2" not in str(findings)


def test_other_kinds_do_not_belong_into_a_file_of_sources():
    _, findings = read_sources(b"apiVersion: kuma.io/v1alpha1\nkind: Mesh\nmetadata: {name: m}\n")
    assert has_errors(findings)


def test_placeholders_are_bound_and_nothing_else_is_touched():
    query = "select ':no', \"a:b\", x::text, 10 % 3 from t -- :c\nwhere a = :user and b=:user;"
    assert bind_query(query) == (
        "select ':no', \"a:b\", x::text, 10 %% 3 from t -- :c\nwhere a = %s and b=%s",
        ("user", "user"),
    )
