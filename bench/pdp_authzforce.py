"""AuthzForce, the XACML engine of the Java world, on the same policies and the same request.

Fetched from Maven Central and compiled in a directory of its own; its processes are pinned to one
core, as ours is one thread. Logging is off, three seconds of warming up are not counted. Where
Java, Maven or the way to Maven Central is missing, it says so and is left out.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).parent / "authzforce"
CONFIGURATION = """<?xml version="1.0" encoding="UTF-8"?>
<pdp xmlns="http://authzforce.github.io/core/xmlns/pdp/8"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" version="8.0">
  <policyProvider id="policies" xsi:type="StaticPolicyProvider">
    <policyLocation>{policy}</policyLocation>
  </policyProvider>
  <rootPolicyRef policySet="true">root</rootPolicyRef>
</pdp>
"""
Asked = tuple[str, str, str]
"""Category, attribute, values with commas between them."""


def measure_authzforce(
    policies: Mapping[int, tuple[bytes, Sequence[Asked]]], rounds: int
) -> tuple[dict[str, float], str]:
    """Decisions/s, p50 and p99 in µs by number of policies; or why it was left out."""
    missing = [tool for tool in ("java", "javac", "mvn") if shutil.which(tool) is None]
    if missing:
        return {}, f"there is no {missing[0]} on this machine"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            classpath = _built(folder)
            return _measured(folder, classpath, policies, rounds), ""
        except (subprocess.SubprocessError, OSError) as error:
            output = getattr(error, "stdout", b"") or b""
            last = output.decode("utf-8", "replace").strip().splitlines()[-1:]
            return {}, f"{type(error).__name__} {' '.join(last)[:200]}".strip()


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        check=True,
        timeout=300,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout.decode("utf-8", "replace")


def _built(folder: Path) -> str:
    """Fetch and compile; the class path."""
    for file in ("pom.xml", "Bench.java"):
        shutil.copy(HERE / file, folder / file)
    goal = ("dependency:build-classpath", "-Dmdep.outputFile=classpath")
    _run(["mvn", "--quiet", "--batch-mode", *goal], folder)
    found = f"{folder}:{(folder / 'classpath').read_text(encoding='utf-8').strip()}"
    _run(["javac", "-d", str(folder), "-cp", found, "Bench.java"], folder)
    silent = '<configuration><root level="OFF"/></configuration>'
    (folder / "logback.xml").write_text(silent, encoding="utf-8")
    return found


def _measured(
    folder: Path,
    classpath: str,
    policies: Mapping[int, tuple[bytes, Sequence[Asked]]],
    rounds: int,
) -> dict[str, float]:
    found: dict[str, float] = {}
    pinned = ["taskset", "-c", "0"] if shutil.which("taskset") else []
    for count, (document, asked) in policies.items():
        policy = folder / "policy.xml"
        policy.write_bytes(document)
        text = CONFIGURATION.format(policy=policy.as_uri())
        (folder / "pdp.xml").write_text(text, encoding="utf-8")
        parts = [part for one in asked for part in one]
        command = [*pinned, "java", "-cp", classpath, "Bench", "pdp.xml", str(rounds), *parts]
        rate, p50, p99 = map(float, _run(command, folder).split()[-3:])
        found[f"AuthzForce decisions/s {count}"] = rate
        found[f"AuthzForce {count}, p50 us"] = p50
        found[f"AuthzForce {count}, p99 us"] = p99
    return found
