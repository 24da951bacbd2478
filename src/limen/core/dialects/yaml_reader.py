"""Bytes to plain values with line numbers: a strict reader of YAML and of JSON, which is YAML.

Values are built from parser events without recursion; size, depth, number of nodes and length of
paths are capped before anything is built. Aliases, anchors, tags, merge keys, duplicate keys and
everything that two YAML readers could take differently is refused. Never raises for bad bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from limen.core.dialects.document import Findings, JsonObject, JsonValue, child, show
from limen.core.dialects.scalars import BadScalar, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.model.diagnostic import Diagnostic

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 200_000
MAX_PATH_TEXT = 32 * 1024 * 1024
"""Characters of all paths of one file together: what its line numbers may cost."""
MAX_KEY_LENGTH = 512

_NOT_ALLOWED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""What YAML 1.2 does not call printable (production c-printable), byte order marks inside, and the
line breaks that only YAML 1.1 knows (U+0085, U+2028, U+2029): readers would count lines apart."""

_PORT_LIKE = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
"""A whole number as a key is read as a text, as Kubernetes does: ports are written so."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_SYNTAX_HINTS = (
    ("tab", "indent with spaces, never with tabs"),
    ("\\t", "indent with spaces, never with tabs"),
    ("Unicode character escape", "write the character itself, in UTF-8"),
    ("mapping values", "a text with ': ' in it must be quoted"),
)


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One YAML document: its root value and the 1-based line of every path in it."""

    body: JsonValue
    lines: dict[str, int]


@dataclass(slots=True)
class _Frame:
    """A collection that is being filled. `key` is the pending key of a mapping."""

    path: str
    mapping: JsonObject | None = None
    sequence: list[JsonValue] | None = None
    key: str | None = None
    key_line: int = 0


class _Refused(Exception):
    """Reading cannot go on."""

    def __init__(self, code: str, message: str, line: int, path: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code, self.line, self.path, self.hint = code, line, path, hint


def read_yaml(
    data: bytes, file: str = ""
) -> tuple[tuple[RawDocument, ...], tuple[Diagnostic, ...]]:
    """All documents of `data` that have content, and every finding about them.

    Documents with an error are left out. Never raises for any `data`.
    """
    findings = Findings(file)
    documents: list[RawDocument] = []
    try:
        text = _decode(data)
        for document in _Builder(findings).documents(_events(text)):
            documents.append(document)  # noqa: PERF402 - kept as far as reading came
    except _Refused as refused:
        findings.error(refused.code, str(refused), refused.path, refused.hint, refused.line)
    return tuple(documents), findings.diagnostics


def _decode(data: bytes) -> str:
    """UTF-8 text without a byte order mark. Raises _Refused."""
    if len(data) > MAX_BYTES:
        raise _Refused(
            "file-too-large",
            f"the file has {len(data)} bytes or more; at most {MAX_BYTES} are read",
            1,
            hint="split it",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Refused(
            "not-utf8", f"byte {error.start} is not UTF-8", line, hint="save the file as UTF-8"
        ) from None
    odd = _NOT_ALLOWED.search(text)
    if odd is not None:
        raise _Refused(
            "control-character",
            f"character U+{ord(odd[0]):04X} is not allowed",
            text.count("\n", 0, odd.start()) + 1,
            hint="remove it; this may not be a text file",
        )
    return text


def _events(text: str) -> Iterator[Any]:
    """Parser events one by one. Raises _Refused with the place of a syntax error."""
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        hint = next((hint for word, hint in _SYNTAX_HINTS if word in problem), "")
        line = 1 if mark is None else mark.line + 1
        raise _Refused("yaml-syntax", f"not valid YAML: {problem[:200]}", line, hint=hint) from None
    finally:
        loader.dispose()


@dataclass(slots=True)
class _Builder:
    """Builds values from events with an explicit stack."""

    findings: Findings
    stack: list[_Frame] = field(default_factory=list)
    root: JsonValue = None
    lines: dict[str, int] = field(default_factory=dict)
    nodes: int = 0
    path_text: int = 0

    def documents(self, events: Iterator[Any]) -> Iterator[RawDocument]:
        """Every document with content in which no error was found."""
        errors = 0
        for event in events:
            match event:
                case yaml.DocumentStartEvent():
                    self.root, self.lines, errors = None, {}, self.findings.errors
                case yaml.DocumentEndEvent():
                    if self.root is not None and self.findings.errors == errors:
                        yield RawDocument(self.root, self.lines)
                case yaml.MappingStartEvent():
                    self._open(event, mapping=True)
                case yaml.SequenceStartEvent():
                    self._open(event, mapping=False)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self.stack.pop()
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case _:
                    pass

    def _open(self, event: Any, *, mapping: bool) -> None:
        line = event.start_mark.line + 1
        if self._wants_key():
            raise _Refused(
                "bad-key", "a key must be a text, not a collection", line, self.stack[-1].path
            )
        path = self._place(line)
        self._no_tricks(event, path, line)
        if len(self.stack) >= MAX_DEPTH:
            raise _Refused(
                "too-deep", f"nested more than {MAX_DEPTH} levels deep", line, path[:200]
            )
        if mapping:
            frame = _Frame(path, mapping={})
            self._put(frame.mapping)
        else:
            frame = _Frame(path, sequence=[])
            self._put(frame.sequence)
        self.stack.append(frame)

    def _scalar(self, event: Any) -> None:
        line = event.start_mark.line + 1
        plain = event.style in (None, "")
        if self._wants_key():
            self._key(event, line, plain=plain)
            return
        path = self._place(line)
        self._no_tricks(event, path, line)
        self._put(self._value(event, path, line, plain=plain))

    def _value(self, event: Any, path: str, line: int, *, plain: bool) -> JsonValue:
        text: str = event.value
        if plain:
            try:
                return resolve(text)
            except BadScalar as bad:
                self.findings.error(bad.code, str(bad), path, bad.hint, line)
                return None
        odd = _NOT_ALLOWED.search(text)
        if odd is not None:
            self.findings.error(
                "control-character",
                f"character U+{ord(odd[0]):04X} is not allowed in a text",
                path,
                "remove it",
                line,
            )
        return text

    def _key(self, event: Any, line: int, *, plain: bool) -> None:
        frame = self.stack[-1]
        assert frame.mapping is not None  # noqa: S101 - _wants_key says so
        key = self._checked_key(event, frame, line, plain=plain)
        path = child(frame.path, key)
        if key in frame.mapping:
            first = self.lines.get(path, 0)
            self.findings.error(
                "duplicate-key",
                f"key {show(key)} stands twice (first on line {first})",
                path,
                "keep one of them",
                line,
            )
        frame.key, frame.key_line = key, line

    def _checked_key(self, event: Any, frame: _Frame, line: int, *, plain: bool) -> str:
        key: str = event.value
        self._no_tricks(event, frame.path, line)
        if len(key) > MAX_KEY_LENGTH:
            raise _Refused(
                "bad-key", f"a key has more than {MAX_KEY_LENGTH} characters", line, frame.path
            )
        if plain and key == "<<":
            self.findings.error(
                "yaml-merge", "merge keys are not read", frame.path, "write the fields out", line
            )
        elif plain and not self._is_text(key) and not _PORT_LIKE.fullmatch(key):
            self.findings.error(
                "bad-key",
                f"YAML does not read the key {show(key)} as a text",
                frame.path,
                f'put it in quotes: "{key}"' if key.isascii() and key else "name the key",
                line,
            )
        elif _NOT_ALLOWED.search(key):
            self.findings.error(
                "control-character", "a key has a control character", frame.path, "remove it", line
            )
        return key

    @staticmethod
    def _is_text(key: str) -> bool:
        try:
            return isinstance(resolve(key), str)
        except BadScalar:
            return False

    def _alias(self, event: Any) -> None:
        line = event.start_mark.line + 1
        raise _Refused(
            "yaml-alias",
            f"the alias *{show(event.anchor)[1:-1]} is not read",
            line,
            self.stack[-1].path if self.stack else "",
            "write the value out",
        )

    def _no_tricks(self, event: Any, path: str, line: int) -> None:
        if event.anchor is not None:
            self.findings.error(
                "yaml-alias",
                f"the anchor &{show(event.anchor)[1:-1]} is not read",
                path,
                "remove it, and write values out where they are used",
                line,
            )
        if event.tag is not None:
            self.findings.error(
                "yaml-tag", f"the tag {show(event.tag)} is not read", path, "remove it", line
            )

    def _wants_key(self) -> bool:
        return (
            bool(self.stack) and self.stack[-1].mapping is not None and self.stack[-1].key is None
        )

    def _place(self, line: int) -> str:
        """Count the value that comes and note its line; its path."""
        path = ""
        if self.stack:
            frame = self.stack[-1]
            if frame.sequence is not None:
                path = child(frame.path, len(frame.sequence))
            elif frame.key is not None:
                path, line = child(frame.path, frame.key), frame.key_line
        self.nodes += 1
        self.path_text += len(path)
        if self.nodes > MAX_NODES or self.path_text > MAX_PATH_TEXT:
            raise _Refused(
                "too-many-values", f"more than {MAX_NODES} values", line, path[:200], "split it"
            )
        self.lines.setdefault(path, line)
        return path

    def _put(self, value: JsonValue) -> None:
        if not self.stack:
            self.root = value
            return
        frame = self.stack[-1]
        if frame.sequence is not None:
            frame.sequence.append(value)
        elif frame.mapping is not None and frame.key is not None:
            frame.mapping[frame.key] = value
            frame.key = None
