"""Wycheproof's JOSE vectors, read from where they lie; a test skips visibly where they do not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "jose"
MISSING = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no JOSE vectors at {FOLDER}")


@dataclass(frozen=True)
class Vector:
    file: str
    group: int
    number: int
    comment: str
    result: str
    form: str
    """`jws` or `jwe`."""
    token: str
    jwks: dict[str, Any]
    symmetric: bool


def load(name: str) -> list[Vector]:
    """All vectors of one file, with the keys that a verifier has."""
    if not FOLDER.is_dir():
        return []
    found = []
    for index, group in enumerate(json.loads((FOLDER / name).read_text())["testGroups"]):
        keys = group.get("public") or group["private"]
        jwks = keys if "keys" in keys else {"keys": [keys]}
        symmetric = any(key.get("kty") == "oct" for key in jwks["keys"])
        for test in group["tests"]:
            form = "jws" if "jws" in test else "jwe"
            raw = test[form]
            token = raw if isinstance(raw, str) else json.dumps(raw)
            found.append(
                Vector(
                    name, index, test["tcId"], test["comment"], test["result"], form, token,
                    jwks, symmetric,
                )
            )  # fmt: skip
    return found
