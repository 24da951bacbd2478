"""Policy files (XACML, Rego) and conformance cases on disk. Reads files; judges nothing.

A case is a directory with `Policy.xml` (or `Policies/Policy.xml`, the root, with the policies it
refers to beside it), `Request.xml` and `Response.xml`. Where request and response are named
`.ignore`, the policy must be refused; where only the response is missing, the request must be.
`AttributeProvider.xml`, if there, holds attributes that the request lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.policy.rego.source import MAX_MODULE_BYTES, RegoModule
from limen.core.policy.xacml.limits import MAX_POLICY_BYTES
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_ROOT = "Policy.xml"
_MAX_FILES = 10_000


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A document and where it came from."""

    path: str
    document: bytes


@dataclass(frozen=True, slots=True)
class Case:
    """A conformance case. `policies[0]` is the root; None: the file is not there."""

    name: str
    policies: tuple[Path, ...]
    request: Path | None
    response: Path | None
    attributes: Path | None


def read_bounded(path: Path, limit: int = MAX_POLICY_BYTES) -> bytes:
    """The bytes of a file, one more than `limit` at most. Raises `InvalidInput`."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise InvalidInput(message, code="unreadable", hint="check the path") from None


def read_policies(paths: Iterable[Path]) -> list[PolicyFile]:
    """The files, and all `*.xml` below the directories, in order of name."""
    found: list[PolicyFile] = []
    for path in paths:
        files = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
        if not files:
            raise InvalidInput(f"{path} holds no .xml file", code="no-policy")
        for file in files:
            if len(found) >= _MAX_FILES:
                raise InvalidInput(f"more than {_MAX_FILES} policy files", code="too-many")
            found.append(PolicyFile(str(file), read_bounded(file)))
    return found


def read_rego(paths: Iterable[Path], *, tests: bool = False) -> list[RegoModule]:
    """The files, and all `*.rego` below the directories (but `*_test.rego`), in order of name."""
    found: list[RegoModule] = []
    for path in paths:
        files = sorted(path.rglob("*.rego")) if path.is_dir() else [path]
        files = [f for f in files if tests or f == path or not f.name.endswith("_test.rego")]
        for file in files:
            if len(found) >= _MAX_FILES:
                raise InvalidInput(f"more than {_MAX_FILES} policy files", code="too-many")
            try:
                text = read_bounded(file, MAX_MODULE_BYTES).decode("utf-8")
            except UnicodeDecodeError:
                message = f"{file} is not in UTF-8"
                raise InvalidInput(message, code="unreadable", hint="save it as UTF-8") from None
            found.append(RegoModule(str(file), text))
    return found


def language_of(paths: Iterable[Path]) -> str:
    """`xacml` or `rego`, by the names of the files. Raises `InvalidInput` for a mixture."""
    paths = list(paths)
    rego = [p for p in paths if p.suffix == ".rego" or (p.is_dir() and any(p.rglob("*.rego")))]
    xacml = [p for p in paths if p not in rego or (p.is_dir() and any(p.rglob("*.xml")))]
    if rego and xacml:
        message = "XACML and Rego policies cannot be evaluated together"
        raise InvalidInput(message, code="mixed-languages", hint="name the files of one of them")
    return "rego" if rego else "xacml"


def find_cases(directory: Path) -> Iterator[Case]:
    """All cases at or below `directory`, in order of name."""
    if not directory.is_dir():
        raise InvalidInput(f"{directory} is not a directory", code="unreadable")
    roots = {path.parent for path in directory.rglob(_ROOT)}
    cases = {root.parent if root.name == "Policies" else root for root in roots}
    for path in sorted(cases):
        yield _case(path, str(path.relative_to(directory)))


def _case(path: Path, name: str) -> Case:
    folder = path / "Policies"
    policies: tuple[Path, ...] = (path / _ROOT,)
    if folder.is_dir():
        others = sorted(file for file in folder.glob("*.xml") if file.name != _ROOT)
        policies = (folder / _ROOT, *others)
    present = [path / file for file in ("Request.xml", "Response.xml", "AttributeProvider.xml")]
    request, response, attributes = (file if file.is_file() else None for file in present)
    return Case(path.name if name == "." else name, policies, request, response, attributes)
