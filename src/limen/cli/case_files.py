"""Files of `limen test`: a list of cases, read strictly, every mistake with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.cases import Case
from limen.core.compiler.explanation import ANONYMOUS, ExplainQuery
from limen.core.dialects.document import Findings, JsonObject, JsonValue, child
from limen.core.dialects.yaml_reader import MAX_BYTES, read_yaml
from limen.core.model.diagnostic import Diagnostic, Severity, has_errors
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VERDICTS = {"allow": True, "deny": False}
_TEXTS = ("name", "from", "to", "mesh", "method", "path", "source_ip", "remote_ip", "sni", "rule")
_FIELDS = {*_TEXTS, "expect", "status", "port", "headers", "claims", "provider_allows"}
_REQUIRED = ("to", "expect")
_NUMBERS = {"port": (1, 65535), "status": (0, 599)}
_HINT = f"fields: {', '.join(sorted(_FIELDS))}"


def load_cases(path: Path) -> tuple[Case, ...]:
    """The cases of a file: `tests:` and a list. Raises InvalidInput with every finding."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", code="unreadable") from None
    documents, diagnostics = read_yaml(data, str(path))
    found = list(diagnostics)
    cases: list[Case] = []
    for document in documents:
        findings = Findings(str(path), document.lines)
        cases += _cases(document.body, document.lines, findings)
        found += findings.diagnostics
    if not found and not cases:
        found.append(Diagnostic(Severity.ERROR, "no-cases", "there are no cases", str(path)))
    if has_errors(found):
        raise InvalidInput(f"{path} cannot be used", code="bad-cases", diagnostics=found)
    return tuple(cases)


def _cases(body: JsonValue, lines: dict[str, int], out: Findings) -> Iterator[Case]:
    if not isinstance(body, dict) or set(body) != {"tests"} or not isinstance(body["tests"], list):
        out.error("bad-cases", "this is not a file of cases", "", "write tests: and a list")
        return
    for index, entry in enumerate(body["tests"]):
        path = child("/tests", index)
        if not isinstance(entry, dict):
            out.error("wrong-type", "a case is a map", path, _HINT)
            continue
        if _check(entry, path, out):
            yield _case(entry, index, lines.get(path, 0))


def _check(entry: JsonObject, path: str, out: Findings) -> bool:
    """Whether a case is well formed; says all that is wrong with it."""
    before = len(out.diagnostics)
    for name in entry.keys() - _FIELDS:
        out.error("unknown-field", f"a case has no field {name}", child(path, name), _HINT)
    for name in _REQUIRED:
        if name not in entry:
            out.error("missing-field", f"{name} is missing", path, f"write {name}")
    for name in _TEXTS:
        if name in entry and not isinstance(entry[name], str):
            out.error("wrong-type", f"{name} is a text", child(path, name))
    _check_numbers(entry, path, out)
    if "expect" in entry and entry["expect"] not in _VERDICTS:
        out.error("unknown-value", "expect is allow or deny", child(path, "expect"))
    if not isinstance(entry.get("claims", {}), dict):
        out.error("wrong-type", "claims is a map", child(path, "claims"))
    if not _are_headers(entry.get("headers", {})):
        message = "headers is a map of names to a text or a list of texts"
        out.error("wrong-type", message, child(path, "headers"))
    if not _are_names(entry.get("provider_allows", [])):
        message = "provider_allows is a list of providers"
        out.error("wrong-type", message, child(path, "provider_allows"))
    return len(out.diagnostics) == before


def _are_names(value: JsonValue) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _names(value: JsonValue) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _are_headers(value: JsonValue) -> bool:
    return isinstance(value, dict) and all(
        isinstance(v, str) or (isinstance(v, list) and all(isinstance(i, str) for i in v))
        for v in value.values()
    )


def _text(entry: JsonObject, name: str, default: str) -> str:
    value = entry.get(name, default)
    return value if isinstance(value, str) else default


def _check_numbers(entry: JsonObject, path: str, out: Findings) -> None:
    for name, (lowest, highest) in _NUMBERS.items():
        value = entry.get(name, lowest)
        if isinstance(value, bool) or not isinstance(value, int):
            out.error("wrong-type", f"{name} is a number", child(path, name))
        elif not lowest <= value <= highest:
            out.error("out-of-range", f"{name} is {lowest} to {highest}", child(path, name))


def _number(entry: JsonObject, name: str) -> int | None:
    value = entry.get(name)
    return value if isinstance(value, int) else None


def _case(entry: JsonObject, index: int, line: int) -> Case:
    """A checked case. Without a name it is called by what it asks."""
    claims = entry.get("claims")
    query = ExplainQuery(
        caller=_text(entry, "from", ANONYMOUS),
        callee=_text(entry, "to", ""),
        mesh=_text(entry, "mesh", "default"),
        method=_text(entry, "method", "GET"),
        path=_text(entry, "path", "/"),
        headers=_headers(entry.get("headers", {})),
        port=_number(entry, "port"),
        claims=claims if isinstance(claims, dict) else None,
        assume=True,
        source_ip=_text(entry, "source_ip", ""),
        remote_ip=_text(entry, "remote_ip", ""),
        sni=_text(entry, "sni", ""),
        consents=_names(entry.get("provider_allows", [])),
    )
    asked = f"{index + 1}: {query.caller} -> {query.callee} {query.method} {query.path}"
    return Case(
        name=_text(entry, "name", asked),
        query=query,
        allowed=entry["expect"] == "allow",
        status=_number(entry, "status"),
        rule=_text(entry, "rule", ""),
        line=line,
    )


def _headers(value: JsonValue) -> tuple[tuple[str, str], ...]:
    """Pairs in order; a list is a header that is repeated."""
    return tuple(
        (name, str(one))
        for name, values in (value.items() if isinstance(value, dict) else ())
        for one in (values if isinstance(values, list) else [values])
    )
