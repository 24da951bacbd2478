"""Sources of every origin come out of their JSON as they went in."""

from __future__ import annotations

import json

import pytest

from limen.core.dialects.sources_file import read_sources
from limen.core.model.source_json import source_from_json, source_to_json

USER = "parameters: [{name: u, category: subject, attribute: id}]"
ORIGINS = [
    ("file: {path: a.csv, where: {x: u}}", USER),
    ("http: {url: 'https://a.b/{u}', caFile: c, allowedNetworks: [10.0.0.0/8]}", USER),
    ("sqlite: {path: a, query: 'select :u'}", USER),
    ("postgres: {host: h, database: d, user: u, query: 'select :u', passwordFile: p}", USER),
    ("claims: {header: x-limen-claims}", ""),
    ("labels: {}", ""),
    ("file: {path: a.csv}", "lists: [{part: resource, type: t, field: id}]"),
]


@pytest.mark.parametrize(("origin", "more"), ORIGINS)
def test_a_source_comes_back_equal(origin: str, more: str):
    text = (
        "apiVersion: limen.dev/v1\nkind: AttributeSource\nmetadata: {name: a}\nspec:\n"
        f"  {origin}\n  {more}\n  timeout: 50ms\n"
        "  attributes: [{category: subject, attribute: a, field: /b, optional: true}]\n"
    )
    (source,), findings = read_sources(text.encode())
    assert not findings
    assert source_from_json(json.loads(json.dumps(source_to_json(source)))) == source
