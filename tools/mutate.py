# ruff: noqa: INP001 - a script, not a package
"""Break the translation on purpose, one small change at a time, and see whether a test notices.

`python tools/mutate.py [--mutants N] [--seed N] [--jobs N] [--quick] [--envoy] [--show]` takes a
sample of the possible changes ("mutants") of `core/envoy` and `core/policy` (XACML stands apart)
and runs the tests on each: first those of the room, then (unless `--quick`) those of the compiler,
and with `--envoy` those against a real Envoy too. Prints every survivor; fails if less than 95 %
are noticed (`--wanted`). The same seed and source give the same sample.
Those of `mutation_equivalents.txt` change nothing that can be seen; each says why.

A mutant lives in a forked process only: no file is written. What does not change (pytest,
Hypothesis, Envoy's messages) is imported once, before the fork.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import multiprocessing
import os
import random
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import pairwise
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.process import BaseProcess
    from types import CodeType

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
ROOMS = ("limen/core/envoy", "limen/core/policy")
EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.txt")
WANTED = 0.95
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
TEST_S = 600
SLOW = "too slow"
ENVOY_S = 600

QUICK = ("tests/core/envoy/test_resources.py", "tests/core/envoy/test_secrets.py")
OWN = {
    "limen/core/envoy": (*QUICK, "tests/core/envoy", "tests/core/policy"),
    "limen/core/policy": (
        "tests/core/policy/test_conditions.py", "tests/core/policy", "tests/core/envoy",
    ),
}  # fmt: skip
COMPILER = (
    "tests/core/compiler", "tests/core/test_cli_explain.py", "tests/core/test_cli_test.py",
    "tests/core/test_cli_policy_test.py",
)  # fmt: skip
REAL = tuple(
    f"tests/e2e/test_{name}.py"
    for name in ("envoy_authorization", "envoy_tokens", "istio_documents", "envoy_agreement",
                 "envoy_permissive", "envoy_edge", "envoy_way_out")
)  # fmt: skip

COMPARED = {
    ast.Eq: "!=", ast.NotEq: "==", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
CALLED = {"any": "all", "all": "any", "min": "max", "max": "min"}


@dataclass(frozen=True, order=True)
class Mutant:
    """`text[start:end]` of a file, `old`, becomes `new`."""

    file: str
    line: int
    start: int
    end: int
    old: str
    new: str
    written: str

    @property
    def module(self) -> str:
        """The module's dotted name."""
        return self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def key(self) -> str:
        """What names it in the list of equivalents: no line number, so that code may move."""
        return " | ".join((self.file.removeprefix("limen/core/"), *map(_flat, self._parts)))

    @property
    def _parts(self) -> tuple[str, str, str]:
        return (self.written, self.old, self.new or "(nothing)")

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {_flat(self.old)} -> {_flat(self.new) or '(nothing)'}"


def _flat(text: str) -> str:
    return " ".join(text.split())


class Finder(ast.NodeVisitor):
    """All mutants of one file."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text
        self.found: list[Mutant] = []
        lines = text.splitlines(keepends=True)
        self.lines = lines
        self.starts = [0]
        for line in lines:
            self.starts.append(self.starts[-1] + len(line))
        self.tree = ast.parse(text)
        self.constants = self._named_constants()

    def find(self) -> list[Mutant]:
        """Every one that still compiles."""
        self.visit(self.tree)
        return sorted(m for m in self.found if _compiles(mutated(self.text, m)))

    def _named_constants(self) -> dict[str, list[str]]:
        """`How` → EXACT, PREFIX …: values of the same enumeration that this file uses."""
        known: dict[str, set[str]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and node.attr.isupper():
                known.setdefault(ast.unparse(node.value), set()).add(node.attr)
        return {base: sorted(names) for base, names in known.items()}

    # --- where things stand

    def _at(self, line: int, column: int) -> int:
        """Offset in characters; `ast` counts columns in bytes."""
        before = self.lines[line - 1].encode()[:column].decode()
        return self.starts[line - 1] + len(before)

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None  # noqa: S101 - parsed from text
        assert node.end_col_offset is not None  # noqa: S101 - as above
        start = self._at(node.lineno, node.col_offset)
        return start, self._at(node.end_lineno, node.end_col_offset)

    def _source(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self.text[start:end]

    def _replace(self, node: ast.expr | ast.stmt, new: str) -> None:
        self._add(node.lineno, *self._span(node), new)

    def _add(self, line: int, start: int, end: int, new: str) -> None:
        written = self.lines[line - 1].strip()
        old = self.text[start:end]
        if old != new:
            self.found.append(Mutant(self.file, line, start, end, old, new, written))

    def _remove(self, line: int, start: int, end: int) -> None:
        """An item of a list, with the comma after it."""
        rest = self.text[end:]
        after = len(rest) - len(rest.lstrip())
        if rest[after : after + 1] == ",":
            end += after + 1
        self._add(line, start, end, "")

    # --- what is no code

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Types are judged by mypy."""
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        """`__slots__` and `__all__` say nothing; a union of types neither."""
        name = node.targets[0]
        if isinstance(name, ast.Name) and (name.id.startswith("__") or _is_type(node.value)):
            return
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        """Negated; what is imported for types only is left out."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._replace(node.test, f"not ({self._source(node.test)})")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """The words of an error are no translation; that it is raised is."""
        self._replace(node, "pass")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Its parts have no exact place in all versions of Python."""
        self._replace(node, '"mutant"')

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Body and defaults; no decorators (caches), no annotations."""
        if node.name == "__repr__":
            return
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """As functions: `slots` and the like are no translation."""
        for statement in node.body:
            self.visit(statement)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Left out; a docstring is none, and `assert_never` is for mypy."""
        if isinstance(node.value, ast.Constant) or "assert_never(" in self._source(node.value):
            return
        if not isinstance(node.value, ast.Yield | ast.YieldFrom):
            self._replace(node, "pass")
        self.generic_visit(node)

    # --- what is changed

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Left out."""
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Negated."""
        self._replace(node.test, f"(not ({self._source(node.test)}))")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Without its condition, and with the contrary."""
        for test in node.ifs:
            self._replace(test, f"(not ({self._source(test)}))")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """The contrary, or the neighbour."""
        if len(node.ops) == 1:
            new = COMPARED[type(node.ops[0])]
            left, right = self._source(node.left), self._source(node.comparators[0])
            self._replace(node, f"({left} {new} {right})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """The other word, and each part alone left out."""
        other = " or " if isinstance(node.op, ast.And) else " and "
        parts = [f"({self._source(value)})" for value in node.values]
        self._replace(node, f"({other.join(parts)})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Without `not`."""
        if isinstance(node.op, ast.Not):
            self._replace(node, f"({self._source(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """The left part alone."""
        self._replace(node, f"({self._source(node.left)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Another value of the same type."""
        value = node.value
        if isinstance(value, bool):
            self._replace(node, repr(not value))
        elif isinstance(value, int):
            self._replace(node, repr(value + 1))
        elif isinstance(value, str | bytes):
            more = "x" if isinstance(value, str) else b"x"
            self._replace(node, repr(value + more))  # type: ignore[operator] # of one type

    def visit_Call(self, node: ast.Call) -> None:
        """A named argument left out; any for all."""
        if isinstance(node.func, ast.Name) and node.func.id in CALLED:
            self._replace(node.func, CALLED[node.func.id])
        if isinstance(node.func, ast.Name) and node.func.id in {"isinstance", "field", "TypeVar"}:
            return
        for keyword in node.keywords:
            if keyword.arg is not None:
                self._remove(keyword.lineno, *self._span(keyword))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Another value of the enumeration."""
        base = ast.unparse(node.value)
        names = self.constants.get(base, [])
        if node.attr in names and len(names) > 1 and isinstance(node.ctx, ast.Load):
            other = names[(names.index(node.attr) + 1) % len(names)]
            self._replace(node, f"{self._source(node.value)}.{other}")
        self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        """An item left out."""
        self._items(node, node.elts)

    visit_List = visit_Set = visit_Tuple  # type: ignore[assignment] # noqa: N815 - ast's names

    def _items(self, node: ast.expr, items: Sequence[ast.expr]) -> None:
        if len(items) > 1 and not isinstance(getattr(node, "ctx", None), ast.Store):
            for item in items:
                self._remove(item.lineno, *self._span(item))
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        """An entry left out."""
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None:
                self._remove(key.lineno, self._span(key)[0], self._span(value)[1])
        self.generic_visit(node)


def _is_type(value: ast.expr) -> bool:
    if isinstance(value, ast.Subscript):
        return True
    return isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)


def mutated(text: str, mutant: Mutant) -> str:
    """The file with the change."""
    return text[: mutant.start] + mutant.new + text[mutant.end :]


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def all_mutants() -> Iterator[Mutant]:
    """Every change that is known, in the order of files and places."""
    for room in ROOMS:
        for path in sorted((SOURCE / room).glob("*.py")):
            yield from Finder(
                path.relative_to(SOURCE).as_posix(), path.read_text(encoding="utf-8")
            ).find()


# --- judging


class _Loader(SourceFileLoader):
    """Loads one module from a changed text, without caches."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.changed = text

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - importlib's signature
        return compile(self.changed, self.path, "exec", dont_inherit=True)


class _Hook:
    """Finds the changed module; all others as usual."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> object:
        """A spec for the one module, None for others."""
        if name != self.mutant.module:
            return None
        path = SOURCE / self.mutant.file
        text = mutated(path.read_text(encoding="utf-8"), self.mutant)
        loader = _Loader(name, str(path), text)
        spec: ModuleSpec | None = spec_from_file_location(name, path, loader=loader)
        return spec


def judge(mutant: Mutant | None, tests: Sequence[str]) -> None:
    """In a process of its own: run the tests, exit with 0 if all pass."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if mutant is not None:
        sys.meta_path.insert(0, _Hook(mutant))  # type: ignore[arg-type] # duck-typed finder
    os._exit(int(pytest.main([*OPTIONS, *tests]) != 0))


def stages(mutant: Mutant, wanted: argparse.Namespace) -> list[tuple[Sequence[str], float]]:
    """Which tests run, the quick ones first, and how long each may take."""
    room = next(room for room in ROOMS if mutant.file.startswith(room))
    found: list[tuple[Sequence[str], float]] = [(OWN[room], TEST_S)]
    found += [] if wanted.quick else [(COMPILER, TEST_S)]
    return [*found, (REAL, ENVOY_S)] if wanted.envoy else found


@dataclass
class Running:
    """A mutant under test."""

    mutant: Mutant
    left: list[tuple[Sequence[str], float]]
    process: BaseProcess
    until: float


def start(mutant: Mutant, left: list[tuple[Sequence[str], float]]) -> Running:
    """Fork for the next stage."""
    (tests, limit_s), *later = left
    context = multiprocessing.get_context("fork")
    process = context.Process(target=partial(judge, mutant, tests))
    process.start()
    return Running(mutant, later, process, time.monotonic() + limit_s)


def run(mutants: Sequence[Mutant], wanted: argparse.Namespace) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with the first of the tests that noticed; "" if none did."""
    waiting = list(reversed(mutants))
    running: list[Running] = []
    while waiting or running:
        while waiting and len(running) < wanted.jobs:
            mutant = waiting.pop()
            running.append(start(mutant, stages(mutant, wanted)))
        wait([r.process.sentinel for r in running], timeout=1)
        for one in list(running):
            late = time.monotonic() > one.until
            if one.process.is_alive() and not late:
                continue
            one.process.kill()
            one.process.join()
            running.remove(one)
            if late or one.process.exitcode != 0:
                yield one.mutant, SLOW if late else "noticed"
            elif one.left:
                running.append(start(one.mutant, one.left))
            else:
                yield one.mutant, ""


def preload() -> None:
    """What no mutant changes; tests then give the same answers each time."""
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None)
    hypothesis.settings.load_profile("mutation")
    for name in ("cryptography.x509", "envoy.service.discovery.v3.discovery_pb2", "yaml"):
        with contextlib.suppress(ImportError):
            __import__(name)


def equivalents() -> dict[str, str]:
    """Known mutants without effect, and why."""
    found: dict[str, str] = {}
    lines = EQUIVALENTS.read_text(encoding="utf-8").splitlines()
    for line, why in pairwise(lines):
        if line and not line.startswith(("#", " ")) and why.startswith("    "):
            found[line] = why.strip()
    return found


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--mutants", type=int, default=400, help="how many (0: all)")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="only the tests of the room, taken to be green"
    )
    parser.add_argument("--wanted", type=float, default=WANTED, help="share to be noticed (0.95)")
    parser.add_argument("--envoy", action="store_true", help="survivors meet a real Envoy too")
    parser.add_argument("--only", default="", help="files whose path has this text")
    parser.add_argument("--show", action="store_true", help="list them and run nothing")
    return parser.parse_args()


def chosen(wanted: argparse.Namespace) -> list[Mutant]:
    """The sample: the same for the same seed and source."""
    found = [m for m in all_mutants() if wanted.only in m.file]
    if wanted.mutants and wanted.mutants < len(found):
        # not for secrecy: the same sample each time
        found = random.Random(wanted.seed).sample(found, wanted.mutants)  # noqa: S311
    return found


def say(text: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def report(
    mutants: Sequence[Mutant], share: float, outcome: Callable[[], Iterator[tuple[Mutant, str]]]
) -> bool:
    """Print survivors and figures; whether `share` of those that differ were noticed."""
    known = equivalents()
    survivors: list[Mutant] = []
    slow = 0
    for number, (mutant, how) in enumerate(outcome(), 1):
        slow += how == SLOW
        if not how:
            survivors.append(mutant)
            same = "same meaning" if mutant.key in known else "SURVIVED"
            say(f"{number}: {same} {mutant}")
            if mutant.key not in known:
                say(f"    {mutant.key}")
    explained = [m for m in survivors if m.key in known]
    noticed = len(mutants) - len(survivors)
    of_real = noticed / max(1, len(mutants) - len(explained))
    say(
        f"{len(mutants)} mutants: {noticed} noticed ({slow} by the time they took), "
        f"{len(explained)} of the same meaning, {len(survivors) - len(explained)} survived; "
        f"{of_real:.1%} of those that differ are noticed"
    )
    return of_real >= share


def main() -> int:
    """0 if enough are noticed."""
    wanted = options()
    os.chdir(ROOT)
    mutants = chosen(wanted)
    if wanted.show:
        for mutant in mutants:
            say(str(mutant))
        return 0
    preload()
    context = multiprocessing.get_context("fork")
    for room, tests in ({} if wanted.quick else OWN).items():
        clean = context.Process(target=partial(judge, None, tests))
        clean.start()
        clean.join()
        if clean.exitcode != 0:
            say(f"{room}: its tests fail without any change")
            return 2
    return not report(mutants, wanted.wanted, partial(run, mutants, wanted))


if __name__ == "__main__":
    sys.exit(main())
