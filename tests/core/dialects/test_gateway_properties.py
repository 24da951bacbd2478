"""Readers of edge and routing are total: any value is understood in full or refused, never both."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.core.dialects.documents import read
from tests.core.dialects.gateway_documents import (
    KINDS,
    certificate,
    edge_is_on,
    key,
    pem,
    secret,
)
from yaml import safe_load

from limen.core.dialects import kinds
from limen.core.dialects.schema import Choice, FieldType, ListOf, MapOf, Struct, Variants
from limen.core.model.diagnostic import has_errors

pytestmark = pytest.mark.usefixtures(edge_is_on.__name__)

TEXTS = st.sampled_from(
    [
        "", "a", "*", "*.a.example", "a.example", "/a", "/", "shop/a.example", ".", "mesh", "GET",
        "https://a.example", "web.shop.svc.cluster.local", "5s", "10.0.0.1", "(a", "%", "é", "\x00",
        "a" * 3000, "Exact", "PathPrefix", "Service", "Gateway", "gateway.networking.k8s.io",
    ]
)  # fmt: skip
SCALARS = st.one_of(
    TEXTS, st.none(), st.booleans(), st.sampled_from([0, 1, -1, 80, 443, 65536, 2**62, 1.5])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXTS.filter(bool), inner, max_size=3)
    ),
    max_leaves=6,
)


def values(schema: FieldType, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that often fit `schema`, and often do not."""
    if depth > 7:
        return SCALARS
    match schema:
        case Struct():
            inner = {
                name: st.deferred(lambda f=f: values(f.type, depth + 1))
                for name, f in schema.fields.items()
            }
            needed = {name: v for name, v in inner.items() if schema.fields[name].required}
            rest = {name: v for name, v in inner.items() if name not in needed}
            return st.fixed_dictionaries(needed, optional=rest) | JSON
        case Variants():
            return st.one_of(
                values(s, depth + 1).map(
                    lambda v, n=n: {**v, schema.by: n} if isinstance(v, dict) else v
                )
                for n, s in schema.variants.items()
            )
        case ListOf():
            return st.lists(st.deferred(lambda: values(schema.item, depth + 1)), max_size=3)
        case MapOf():
            return st.dictionaries(
                TEXTS.filter(bool), st.deferred(lambda: values(schema.value, depth + 1)), max_size=2
            )
        case Choice():
            return st.sampled_from(schema.values) | JSON
        case _:
            return SCALARS


def judge(body: object) -> None:
    """Either a resource and no error, or an error and no resource; the same both times."""
    data = json.dumps(body).encode()
    resources, diagnostics = read(data)
    assert len(resources) == (0 if has_errors(diagnostics) else 1)
    assert (resources, diagnostics) == read(data)
    for one in resources:
        hash(one.spec)


@pytest.mark.parametrize("kind", KINDS)
def test_any_spec_is_understood_or_refused(kind: str) -> None:
    version, name = KINDS[kind]
    schema = kinds.BY_NAME[f"{version.partition('/')[0]}/{name}"].spec

    @settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
    @given(values(schema))
    def check(spec: object) -> None:
        judge({"apiVersion": version, "kind": name, "metadata": {"name": "a"}, "spec": spec})

    check()


@cache
def good_secret() -> dict[str, Any]:
    text = secret({"tls.crt": pem(certificate(key(7))), "tls.key": pem(key(7))})
    body = safe_load(text)
    assert isinstance(body, dict)
    return body


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["type", "data", "stringData", "immutable", "spec", "tls.key", "metadata"]),
    st.sampled_from(["", "tls.crt", "tls.key", "ca.crt", "cert", "x"]),
    JSON,
)
def test_any_secret_is_understood_or_refused(field: str, entry: str, value: object) -> None:
    body = copy.deepcopy(good_secret())
    if entry and isinstance(body.get(field, {}), dict):
        body[field] = {**body.get(field, {}), entry: value}
    else:
        body[field] = value
    judge(body)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_certificate_or_key_is_refused_and_never_shown(data: st.DataObject) -> None:
    body = copy.deepcopy(good_secret())
    name = data.draw(st.sampled_from(["tls.crt", "tls.key"]))
    text = body["data"][name]
    at = data.draw(st.integers(60, len(text) - 60))
    body["data"][name] = (
        text[:at] + data.draw(st.text("AZaz09+/=-é\n", max_size=4)) + text[at + 4 :]
    )
    resources, diagnostics = read(json.dumps(body).encode())
    assert len(resources) == (0 if has_errors(diagnostics) else 1)
    shown = " ".join(map(str, (*diagnostics, *resources)))
    hidden = good_secret()["data"]["tls.key"]
    assert not any(hidden[i : i + 12] in shown for i in range(40, len(hidden) - 60))
