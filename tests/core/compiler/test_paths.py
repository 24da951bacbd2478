"""Each line was answered by Envoy 1.40 with our settings (`x-path: %REQ(:PATH)%`)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.core.compiler.paths import normalise_path

ACCEPTED = {
    "/": "/",
    "/a/../b": "/b",
    "/a/./b": "/a/b",
    "/a/..": "/",
    "/a/.": "/a/",
    "/..": "/",
    "/../x": "/x",
    "/a//b": "/a/b",
    "//a": "/a",
    "//": "//",
    "///": "//",
    "/a//": "/a/",
    "/a//../b": "/a/b",
    "//..//b": "/b",
    "/a/b/..//c": "/a/c",
    "/a/%2e%2e/b": "/b",
    "/a/%2E/b": "/a/b",
    "/a/.%2e/c": "/c",
    "/a/%2e%2e/../b": "/b",
    "/%41bc": "/Abc",
    "/%7e": "/~",
    "/%5f%5a%7a%30%39%2d": "/_Zz09-",
    "/%40": "/%40",
    "/%5b%60%7b": "/%5b%60%7b",
    "/a%20b": "/a%20b",
    "/a?x=1": "/a",
    "/a/../b?x=/../y": "/b",
    "/a?y=%2f": "/a",
    "/a//?x//y": "/a/",
    "/a;x=1": "/a;x=1",
    "/a/..;/b": "/b",
    "/x/..;a=1/b": "/b",
    "/x/.;a": "/x/",
    "/x/..;": "/",
    "/x/...;/b": "/x/...;/b",
    "/x/a;..;/b": "/x/a;..;/b",
    "/x/..%3b/b": "/x/..%3b/b",
    "/a/...": "/a/...",
    "/a\\b": "/a/b",
    "/a\\..\\b": "/b",
    "/%": "/%",
    "/%zz": "/%zz",
    "/%2": "/%2",
    "/a%c3%a9": "/a%c3%a9",
    "/a|b": "/a%7Cb",
    '/a"<>^`{}b': "/a%22%3C%3E%5E%60%7B%7Db",
    "/%252e": "/%252e",
    "/A/b/": "/A/b/",
    "/a~b!c$d&e(f)g,h=i@j:k+l'*[x]": "/a~b!c$d&e(f)g,h=i@j:k+l'*[x]",
}
REFUSED = [
    "",
    "a",
    "*",
    "/a/%2f",
    "/a%5Cb",
    "/a/%2e%2e%2fb",
    "/a#f",
    "/a?b#c",
    "/a/%00",
    "/é",
    "/a b",
    "/a\tb",
    "/a\x7fb",
]


@pytest.mark.parametrize(("written", "seen"), ACCEPTED.items())
def test_a_path_is_seen_as_envoy_shows_it(written, seen):
    assert normalise_path(written).path == seen
    assert not normalise_path(written).refused


@pytest.mark.parametrize("written", REFUSED)
def test_what_envoy_refuses_is_refused(written):
    assert normalise_path(written).refused


@given(st.text(alphabet="/.%2eE;ab\\?", max_size=20).map(lambda t: "/" + t))
def test_no_dot_segment_and_no_query_survives(written):
    path = normalise_path(written)
    if not path.refused:
        assert "?" not in path.path
        assert not {".", ".."} & set(path.path.split("/"))


@pytest.mark.parametrize("target", ["/x/%2e%2e;p/b", "/x/.%2e;/b", "/%2E;p"])
def test_dot_segments_that_normalisation_leaves_are_denied(target: str):
    found = normalise_path(target)
    assert found.refused
    assert found.status == 403
