"""Sets of documents with what they mean: read, and the workloads that they are about."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.core.compiler import build as b
from tests.core.tokens.signing import ec_key, jwk

from limen.cli.case_files import load_cases
from limen.core.compiler.checks import check
from limen.core.dialects import read_resources
from limen.core.model.diagnostic import has_errors
from limen.core.model.snapshot import Snapshot
from limen.core.model.workload import SERVICE_TAG, Inbound, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.cases import Case

FILE = Path(__file__).with_name("istio.yaml")
GUARDED, APPLICATION = 8080, 9080
KEYS = json.dumps({"keys": [jwk(ec_key(), kid="1", alg="ES256")]})


@dataclass(frozen=True)
class Meaning:
    """Documents, and cases of them. `line` is that of its title."""

    title: str
    line: int
    documents: str
    cases: tuple[Case, ...]

    def world(self, port: int = GUARDED) -> Snapshot:
        """The documents among the workloads; the port of `items` may be another."""
        text = self.documents.replace("KEYS", json.dumps(KEYS)).replace(str(GUARDED), str(port))
        found, _, findings = read_resources(text.encode(), FILE.name)
        assert not has_errors(findings), (self.title, [str(f) for f in findings])
        world = Snapshot({r.key: r for r in (*found, *people(port))})
        errors = [str(f) for f in check(world) if f.severity.value == "error"]
        assert not errors, (self.title, errors)
        return world

    def cases_at(self, port: int) -> Iterator[Case]:
        """The cases, with that port in their authorities."""
        for case in self.cases:
            headers = tuple((k, v.replace(str(GUARDED), str(port))) for k, v in case.query.headers)
            yield replace(case, query=replace(case.query, headers=headers, assume=False))


def people(port: int):
    inbound = Inbound(port, APPLICATION, Protocol.HTTP, ((SERVICE_TAG, "items"),))
    return (
        b.dataplane("items", labels={"app": "items", "version": "v1"}, inbounds=(inbound,)),
        b.dataplane("users", address="127.0.0.2"),
        b.dataplane("robot", address="127.0.0.3"),
        b.dataplane("teller", namespace="bank", address="127.0.0.4"),
    )


def meanings() -> Iterator[Meaning]:
    """Every set of the file."""
    whole = FILE.read_text(encoding="utf-8")
    first, *parts = whole.split("\n=== ")
    line = first.count("\n") + 2
    with tempfile.TemporaryDirectory() as directory:
        for part in parts:
            title, _, text = part.partition("\n")
            documents, _, cases = text.rpartition("tests:\n")
            path = Path(directory) / "cases.yaml"
            path.write_text(f"tests:\n{cases}", encoding="utf-8")
            yield Meaning(title, line, documents.removesuffix("---\n"), load_cases(path))
            line += part.count("\n") + 1
