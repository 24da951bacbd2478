"""Istio's documents for tests of the compiler, read by the real reader with its kinds on."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from tests.core.compiler import build as b

from limen.core.compiler.explain import explain
from limen.core.compiler.explanation import ExplainQuery, Explanation
from limen.core.dialects import kinds, read_resources
from limen.core.model.snapshot import Snapshot

if TYPE_CHECKING:
    from limen.core.model.resource import Resource

FILE = "istio.yaml"


def read(text: str) -> list[Resource]:
    """The resources of documents that have no error. Lines of the file are those of `text`."""
    resources, _, findings = read_resources(dedent(text).lstrip("\n").encode(), FILE)
    errors = [str(f) for f in findings if f.severity.value == "error"]
    assert not errors, errors
    return list(resources)


def one(kind: str, name: str, spec: str, namespace: str = "default", notes: str = "{}") -> Resource:
    """One document with a spec in flow style."""
    text = (
        f"apiVersion: security.istio.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}, annotations: {notes}}}\nspec: {spec}\n"
    )
    (resource,) = read(text)
    return resource


def policy(spec: str, name: str = "p", namespace: str = "default", notes: str = "{}") -> Resource:
    return one("AuthorizationPolicy", name, spec, namespace, notes)


def peer(spec: str, name: str = "peers", namespace: str = "default") -> Resource:
    return one("PeerAuthentication", name, spec, namespace)


def tokens(spec: str, name: str = "jwt", namespace: str = "default", notes: str = "{}") -> Resource:
    return one("RequestAuthentication", name, spec, namespace, notes)


PEOPLE = (
    b.dataplane("items", address="127.0.0.1"),
    b.dataplane("users", address="127.0.0.2"),
    b.dataplane("teller", namespace="bank", address="127.0.0.3"),
)


def ask(*documents: Resource, caller: str = "users", callee: str = "items", **query) -> Explanation:
    """What `explain` says of a request from `users` to `items`."""
    resources = [*PEOPLE, *documents]
    snapshot = Snapshot({r.key: r for r in resources})
    return explain(snapshot, ExplainQuery(caller, callee, **query))


@pytest.fixture
def istio_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in kinds.ISTIO_SECURITY:
        monkeypatch.setitem(kinds.BY_NAME, kind.name, kind)
