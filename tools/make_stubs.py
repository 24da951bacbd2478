# ruff: noqa: INP001 - a script, not a package
"""Make type stubs for the Envoy protobufs in `.stubs/`, because `xds-protos` ships none.

Collects the descriptors of every module that our sources import, with all that they import, and has
grpcio-tools write `.pyi` files from them. Run by `make types`; the result is git-ignored.
"""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / ".stubs"
SOURCES = ("src/limen", "tests", "bench")
PACKAGES = ("envoy.", "xds.", "udpa.")


def imported_modules() -> set[str]:
    """Names of the generated modules that our sources import."""
    found: set[str] = set()
    for source in SOURCES:
        for path in (ROOT / source).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
                    names = (alias.name for alias in node.names)
                    found |= {f"{node.module}.{name}" for name in names if name.endswith("_pb2")}
    return found


def descriptor_set(modules: set[str]) -> descriptor_pb2.FileDescriptorSet:
    """The descriptors of `modules` and of everything that they import, imports first."""
    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(descriptor: object) -> None:
        if descriptor.name in seen:  # type: ignore[attr-defined] # upb descriptors have no stub
            return
        seen.add(descriptor.name)  # type: ignore[attr-defined] # as above
        for dependency in descriptor.dependencies:  # type: ignore[attr-defined] # as above
            add(dependency)
        descriptor.CopyToProto(files.file.add())  # type: ignore[attr-defined] # as above

    for module in sorted(modules):
        add(importlib.import_module(module).DESCRIPTOR)
    return files


def write_stubs(files: descriptor_pb2.FileDescriptorSet) -> int:
    """Write `.pyi` files for all but `google.protobuf`, whose stubs are types-protobuf's."""
    wanted = [f.name for f in files.file if not f.name.startswith("google/protobuf/")]
    shutil.rmtree(STUBS, ignore_errors=True)
    STUBS.mkdir()
    with tempfile.NamedTemporaryFile(suffix=".binpb") as source:
        source.write(files.SerializeToString())
        source.flush()
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc"),
                *(f"--descriptor_set_in={source.name}", f"--pyi_out={STUBS}"),
                *wanted,
            ],
            check=True,
        )
    written = list(STUBS.rglob("*.pyi"))
    for path in written:
        path.write_text("# mypy: ignore-errors\n" + path.read_text(encoding="utf-8"))
    for folder in {path.parent for path in written}:
        make_packages(folder)
    return len(wanted)


def make_packages(folder: Path) -> None:
    """Mark `folder` and those above it as packages, so that they win over the untyped ones.

    Not `google`: its other half is types-protobuf.
    """
    while folder not in (STUBS, STUBS / "google"):
        (folder / "__init__.pyi").touch()
        folder = folder.parent


def main() -> None:
    """Write the stubs and say how many."""
    count = write_stubs(descriptor_set(imported_modules()))
    sys.stdout.write(f"{count} stubs in {STUBS.name}/\n")


if __name__ == "__main__":
    main()
