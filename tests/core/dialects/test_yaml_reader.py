"""Bad bytes: every one has a defined answer, none an exception."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limen.core.dialects.yaml_reader import MAX_BYTES, MAX_DEPTH, MAX_NODES, read_yaml


def first(data: bytes) -> tuple[str, int]:
    """Code and line of the first finding; no document came through."""
    documents, diagnostics = read_yaml(data, "f.yaml")
    assert not documents
    assert diagnostics[0].file == "f.yaml"
    return diagnostics[0].code, diagnostics[0].line


BILLION_LAUGHS = b"""\
a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]
d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]
"""


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (BILLION_LAUGHS, "yaml-alias", 1),
        (b"a: 1\nb: &x 1\n", "yaml-alias", 2),
        (b"*x\n", "yaml-alias", 1),
        (b"a:\n  <<: {b: 1}\n", "yaml-merge", 2),
        (b"[" * 50_000, "too-deep", 1),
        (b"- " * 50_000, "too-deep", 1),
        (b'{"a":' * 50_000, "too-deep", 1),
        (b"{" * 50_000, "bad-key", 1),
        (b"? " * 50_000, "bad-key", 1),
        (b"? [a]\n: b\n", "bad-key", 1),
        (b"{{a: 1}: 2}", "bad-key", 1),
        (b"x" * 10_000_000, "file-too-large", 1),
        (b"[" * 10_000_000, "file-too-large", 1),
        (b"- a\n" * (MAX_NODES + 1), "too-many-values", MAX_NODES),
        (b"a: 1\nb: 2\na: 3\n", "duplicate-key", 3),
        (b'{"a": 1,\n"a": 1}', "duplicate-key", 2),
        (b'a: 1\n"a": 1', "duplicate-key", 2),
        (b"a: b\x00c\n", "control-character", 1),
        (b"a: 1\nb: '\x07'\n", "control-character", 2),
        (b'a: 1\nb: "\\0"\n', "control-character", 2),
        (b'a: 1\n"\\e": 1\n', "control-character", 2),
        ("a: '\u2028'\n".encode(), "control-character", 1),
        ("a: 1\nb: \x85c: 2\n".encode(), "control-character", 2),
        (b'a: "\\ud800"\n', "yaml-syntax", 1),
        ("a: '\ud800'".encode("utf-8", "surrogatepass"), "not-utf8", 1),
        (b"a: 1\nb: \xff\n", "not-utf8", 2),
        ("a: 1".encode("utf-16"), "not-utf8", 1),
        (b"a: 1\n\tb: 2\n", "yaml-syntax", 2),
        (b"a: [1\nb: 2\n", "yaml-syntax", 2),
        (b"a: b: c\n", "yaml-syntax", 1),
        (b"%YAML 3.0\n---\na: 1\n", "yaml-syntax", 1),
        (b"a: !!python/object/apply:os.system [ls]\n", "yaml-tag", 1),
        (b"a: !mine 1\n", "yaml-tag", 1),
        (b"a: !!str 1\n", "yaml-tag", 1),
        (b"a: ! 1\n", "yaml-tag", 1),
        (b"!!map {a: 1}\n", "yaml-tag", 1),
        (b"a: .nan\n", "not-finite", 1),
        (b"a: -.inf\n", "not-finite", 1),
        (b"a: " + b"9" * 5000, "number-too-large", 1),
        (b"a: 9223372036854775808", "number-too-large", 1),
        (b"a: 1e999", "number-too-large", 1),
        (b"a: 0644", "ambiguous-number", 1),
        (b"a: 0x1F", "ambiguous-number", 1),
        (b"a: 0o7", "ambiguous-number", 1),
        (b"a: 1_000", "ambiguous-number", 1),
        (b"on: 1", "bad-key", 1),
        (b"1.5: a", "bad-key", 1),
        (b"-1: a", "bad-key", 1),
        (b"08080: a", "bad-key", 1),
        (b'{8080: a, "8080": b}', "duplicate-key", 1),
        (b"~: a", "bad-key", 1),
        (b"0x1: a", "bad-key", 1),
        (b"k" * 600 + b": 1", "bad-key", 1),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_bad_bytes_are_refused_with_code_and_line(data: bytes, code: str, line: int) -> None:
    assert first(data) == (code, line)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", True),
        ("No", False),
        ("y", "y"),
        ("'on'", "on"),
        ("~", None),
        ("", None),
        ("null", None),
        ("None", "None"),
        ("12", 12),
        ("-9223372036854775808", -(2**63)),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("| \n  two\n  lines\n", "two\nlines\n"),
        ('"\\u00e9"', "é"),
    ],
)
def test_scalars_are_read_as_kubernetes_reads_them(text: str, value: object) -> None:
    documents, diagnostics = read_yaml(f"a: {text}".encode())
    assert not diagnostics
    assert documents[0].body == {"a": value}


def test_lines_are_those_of_keys_and_items() -> None:
    data = b"a:\n  b:\n  - x\n  - c: 1\n    d/e~f: 2\n---\n\nz: 1\n"
    first_document, second = read_yaml(data)[0]
    assert first_document.lines == {
        "": 1,
        "/a": 1,
        "/a/b": 2,
        "/a/b/0": 3,
        "/a/b/1": 4,
        "/a/b/1/c": 4,
        "/a/b/1/d~1e~0f": 5,
    }
    assert second.lines == {"": 8, "/z": 8}


def test_documents_without_content_are_skipped() -> None:
    documents, diagnostics = read_yaml(b"# nothing\n---\n---\na: 1\n---\n# end\n...\n")
    assert [d.body for d in documents] == [{"a": 1}]
    assert not diagnostics
    assert read_yaml(b"") == ((), ())


def test_a_byte_order_mark_is_skipped() -> None:
    assert read_yaml(b"\xef\xbb\xbfa: 1")[0][0].body == {"a": 1}


def test_a_bad_document_does_not_hide_its_neighbours() -> None:
    documents, diagnostics = read_yaml(b"a: 1\na: 2\n---\nb: 1\n---\nc: 1\nc: 1\n")
    assert [d.body for d in documents] == [{"b": 1}]
    assert [(d.code, d.line) for d in diagnostics] == [("duplicate-key", 2), ("duplicate-key", 7)]


def test_depth_up_to_the_limit_is_read() -> None:
    deep = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert not read_yaml(b"a: " + deep)[1]
    assert first(b"a: [" + deep + b"]")[0] == "too-deep"


def test_findings_are_capped() -> None:
    _, diagnostics = read_yaml(b"a: 1\n" * 5000)
    assert len(diagnostics) == 201
    assert diagnostics[-1].code == "too-many-findings"


def test_a_key_cannot_forge_a_line_of_output() -> None:
    _, diagnostics = read_yaml(b'"a\\nb.yaml:1: /: ok": 1\n"a\\nb.yaml:1: /: ok": 1\n')
    assert diagnostics
    assert all("\n" not in str(d) and "\x1b" not in str(d) for d in diagnostics)


def test_long_keys_in_deep_places_cost_no_memory() -> None:
    key = b"k" * 500
    nest = b"".join(b" " * i + key + b":\n" for i in range(60))
    data = nest + b"".join(b" " * 60 + b"- x\n" for _ in range(40_000))
    assert len(data) < MAX_BYTES
    assert first(data)[0] == "too-many-values"


@pytest.mark.parametrize(
    "data",
    [
        b"&a " * 1_000_000,
        b"!a " * 1_000_000,
        b"a: " * 1_000_000,
        b'"' * 4_000_000,
        b"#" * 4_000_000,
        b"a\n" * 2_000_000,
        b"[a: " * 64 + b"a " * 1_900_000,
        b"--- \n" * 800_000,
        b"[" + b"a," * 2_000_000,
        b"'" + b"\\n" * 2_000_000,
        b"a: |\n" + b" \n" * 1_900_000,
        b"a: >\n" + b" b\n\n" * 900_000,
        b"{a: [" * 1000 + b"}]" * 1000,
    ],
    ids=lambda data: repr(data[:8]),
)
def test_four_megabytes_of_anything_take_seconds_at_most(data: bytes) -> None:
    started = time.process_time()
    read_yaml(data)
    assert time.process_time() - started < 20


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400))
@example(b"\xf0\x9f\x98\x80: 1")
@example(b"? ")
@example(b"a: *")
def test_any_bytes_are_answered(data: bytes) -> None:
    documents, diagnostics = read_yaml(data, "f")
    assert all(d.code and d.line >= 1 for d in diagnostics)
    assert all(document.body is not None for document in documents)


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="ab:-?[]{}!&*|>'\"%@`#, \n\t~<01.eExon\\u", max_size=80))
def test_any_yaml_like_text_is_answered(text: str) -> None:
    read_yaml(text.encode())


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, width=32).filter(lambda f: abs(f) < 1e15)
    | st.text(
        st.characters(codec="utf-8", min_codepoint=0x20, exclude_characters="\x7f"), max_size=20
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), _JSON, min_size=1, max_size=3),
    st.sampled_from([None, 1]),
)
def test_json_is_read_as_json_reads_it(value: dict[str, object], indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    documents, diagnostics = read_yaml(text.encode())
    if diagnostics:
        allowed = {"control-character", "yaml-syntax"}
        assert {d.code for d in diagnostics} <= allowed, [str(d) for d in diagnostics]
        assert not text.isascii()
        return
    assert documents[0].body == value


def test_whole_number_as_a_key_is_a_text_as_in_kubernetes() -> None:
    documents, diagnostics = read_yaml(b"8080: {mode: STRICT}\n0: a\n")
    assert not diagnostics
    assert documents[0].body == {"8080": {"mode": "STRICT"}, "0": "a"}
