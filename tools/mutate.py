# ruff: noqa: INP001 - a script, not a package
"""Break the translation on purpose, one small change at a time, and see whether a test notices.

`python tools/mutate.py [--mutants N] [--seed N] [--jobs N] [--quick] [--show]` takes a sample of
the possible changes ("mutants", `mutants.py`) of `core/envoy` and of the modules of `core/policy`
itself: all that represents a policy, decides by it or turns it into Envoy's messages. The engines
below `core/policy` (`xacml/`, `rego/`) translate nothing for Envoy and have suites of their own.
Prints every survivor; fails if less than 95 % are noticed (`--wanted`). The same seed and source
give the same sample. `--quick` leaves the tests of the compiler out, so it notices less.
Those of `mutation_equivalents.txt` change nothing that can be seen; each says why.

A mutant lives in a forked process only: no file is written. One process imports all, collects the
tests and learns which of them call which function (`Warm`). For a mutant of a function's body it
forks, puts the changed code in the function's place, and runs only the tests that call it, the
quick ones first. What was already used while importing is tried in a fresh process instead.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import gc
import multiprocessing
import os
import random
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import pairwise
from multiprocessing.connection import wait
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, TypeVar

import hypothesis
import pytest
from mutants import ROOMS, ROOT, SOURCE, Mutant, all_mutants, mutated, place_of, place_of_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.txt")
WANTED = 0.95
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
OWN = (
    "tests/core/envoy", "tests/core/policy", "tests/sdk/test_pdp.py",
    "tests/core/test_cli_policy_test.py",
)  # fmt: skip
COMPILER = (
    "tests/core/test_meaning.py", "tests/core/compiler", "tests/core/test_cli_explain.py",
    "tests/core/test_cli_test.py",
)  # fmt: skip
SLOW = "too slow"
MORE_S = 20.0
"""Processor time that a mutant's tests get beyond thrice what they take without it."""
COLD_S = 300.0
SEEN: set[str] = set()

T = TypeVar("T")
R = TypeVar("R")
Outcome = tuple[Mutant, str]


# --- processes


def _send(do: Callable[[T], R], task: T, out: Connection) -> None:
    out.send(do(task))
    out.close()
    os._exit(0)


def in_forks(tasks: Sequence[T], jobs: int, do: Callable[[T], R]) -> Iterator[tuple[T, R | None]]:
    """Each task done in a process of its own; None for those that died."""
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(tasks))
    running: dict[Connection, tuple[T, multiprocessing.process.BaseProcess]] = {}
    gc.freeze()
    while waiting or running:
        while waiting and len(running) < jobs:
            task = waiting.pop()
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_send, args=(do, task, there))
            process.start()
            there.close()
            running[here] = (task, process)
        for one in wait(list(running)):
            assert not isinstance(one, int)  # noqa: S101 - `wait` gives back what it was given
            task, process = running.pop(one)  # type: ignore[index] # as above
            try:
                result = one.recv()  # type: ignore[union-attr] # as above
            except EOFError:
                result = None
            process.join()
            yield task, result


def silence() -> None:
    """What tests print is not shown."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)


def used_s() -> float:
    """Processor time of this process."""
    return time.process_time()


def limit(more_s: float) -> None:
    """Die after this much more processor time; wall time says little on a shared machine."""
    most = int(used_s() + more_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))


# --- changed modules


class _Loader(SourceFileLoader):
    """Loads one module from a changed text or tree, without caches."""

    def __init__(self, name: str, path: str, changed: str | ast.Module) -> None:
        super().__init__(name, path)
        self.changed = changed

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - importlib's signature
        return compile(self.changed, self.path, "exec", dont_inherit=True)


class Hook:
    """Finds changed modules; all others as usual."""

    def __init__(self, changed: Callable[[str], str | ast.Module | None]) -> None:
        self.changed = changed

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> object:
        """A spec for what is changed, None for others."""
        file = f"{name.replace('.', '/')}.py"
        if not file.startswith(ROOMS) or not (SOURCE / file).exists():
            return None
        changed = self.changed(file)
        if changed is None:
            return None
        path = SOURCE / file
        loader = _Loader(name, str(path), changed)
        spec: ModuleSpec | None = spec_from_file_location(name, path, loader=loader)
        return spec


class _Telling(ast.NodeTransformer):
    """Every function says that it is called."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.classes: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """Its methods."""
        self.classes.append(node.name)
        self.generic_visit(node)
        self.classes.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """The outermost ones only."""
        place = place_of(self.file, node, self.classes)
        told = ast.parse(f"__seen__({place!r})").body[0]
        node.body.insert(0, ast.copy_location(told, node.body[0]))
        return ast.fix_missing_locations(node)


def telling(file: str) -> ast.Module:
    """The module with functions that say that they are called."""
    tree: ast.Module = _Telling(file).visit(ast.parse((SOURCE / file).read_text(encoding="utf-8")))
    return tree


def changed_text(mutant: Mutant, file: str) -> str | None:
    """What is loaded in the place of `file`."""
    if file != mutant.file:
        return None
    return mutated((SOURCE / file).read_text(encoding="utf-8"), mutant)


def function_code(mutant: Mutant) -> CodeType | None:
    """The changed code of the function around the change."""
    text = changed_text(mutant, mutant.file) or ""
    left = [compile(text, str(SOURCE / mutant.file), "exec", dont_inherit=True)]
    while left:
        code = left.pop()
        if place_of_code(code) == mutant.place:
            return code
        left += [c for c in code.co_consts if isinstance(c, CodeType)]
    return None


def functions() -> dict[str, FunctionType]:
    """All that live, by their place; before a fork, which hides them from the collector."""
    found = [f for f in gc.get_objects() if isinstance(f, FunctionType)]
    return {place: f for f in found if (place := place_of_code(f.__code__))}


# --- the warm process


@dataclass(frozen=True)
class Known:
    """What a test calls, and what it costs."""

    places: frozenset[str]
    took_s: float
    passes: bool


@dataclass
class Warm:
    """A plugin of pytest: instead of running the tests once, runs them on every mutant."""

    mutants: Sequence[Mutant]
    jobs: int
    out: Connection

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn, then judge; sends outcomes, and None with what is left for a fresh process."""
        early = frozenset(SEEN)
        live = functions()
        session.testsfailed = 0
        known = dict(in_forks(session.items, self.jobs, partial(_learn, session)))
        failing = [i.nodeid for i, k in known.items() if k is None or not k.passes]
        if failing:
            self.out.send(("failing", failing))
            return True
        warm = [m for m in self.mutants if m.place in live and m.place not in early]
        done = in_forks(warm, self.jobs, partial(_judge_warm, session, live, known))
        for mutant, how in done:
            self.out.send(("outcome", (mutant, SLOW if how is None else how)))
        files = {m.file: _files(m, known) for m in self.mutants}
        cold = [(m, files[m.file]) for m in self.mutants if m not in set(warm)]
        self.out.send(("cold", cold))
        return True


def _learn(session: pytest.Session, item: pytest.Item) -> Known:
    SEEN.clear()
    before = used_s()
    passes = runtest_passed(session, item)
    return Known(frozenset(SEEN), used_s() - before, passes)


def runtest_passed(session: pytest.Session, item: pytest.Item) -> bool:
    """Whether nothing of this test fails; run in a process that may be thrown away."""
    failed = session.testsfailed
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    return session.testsfailed == failed


def _judge_warm(
    session: pytest.Session,
    live: dict[str, FunctionType],
    known: dict[pytest.Item, Known],
    mutant: Mutant,
) -> str:
    code = function_code(mutant)
    assert code is not None  # noqa: S101 - its place was found in this text
    reached = [i for i in session.items if mutant.place in known[i].places]
    limit(MORE_S + 3 * sum(known[i].took_s for i in reached))
    live[mutant.place].__code__ = code
    for item in sorted(reached, key=lambda i: known[i].took_s):
        if not runtest_passed(session, item):
            return item.nodeid
    return ""


def _files(mutant: Mutant, known: dict[pytest.Item, Known]) -> list[str]:
    """Files of tests that call anything of the module, those with the most such tests first."""
    told = f"{mutant.file}:"
    counted: Counter[str] = Counter()
    for item, one in known.items():
        counted[str(item.path)] += any(place.startswith(told) for place in one.places)
    return [file for file, _ in counted.most_common()]


def warm(mutants: Sequence[Mutant], wanted: argparse.Namespace, out: Connection) -> None:
    """In a process of its own."""
    silence()
    builtins.__seen__ = SEEN.add  # type: ignore[attr-defined] # told by `_Telling`
    sys.meta_path.insert(0, Hook(telling))  # type: ignore[arg-type] # duck-typed finder
    tests = OWN if wanted.quick else (*OWN, *COMPILER)
    plugin = Warm(mutants, wanted.jobs, out)
    pytest.main([*OPTIONS[1:], *tests], plugins=[plugin])
    out.close()
    os._exit(0)


# --- fresh processes


def _judge_cold(task: tuple[Mutant, list[str]]) -> str:
    mutant, (first, *others) = task
    silence()
    sys.meta_path.insert(0, Hook(partial(changed_text, mutant)))  # type: ignore[arg-type] # as above
    limit(COLD_S)
    for tests in ([first], others):
        if pytest.main([*OPTIONS, *tests]) != 0:
            return first
    return ""


def run(mutants: Sequence[Mutant], wanted: argparse.Namespace) -> Iterator[Outcome]:
    """Each mutant with the test that noticed it; "" if none did."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=warm, args=(mutants, wanted, there))
    process.start()
    there.close()
    while True:
        try:
            what, value = here.recv()
        except EOFError:
            sys.exit("the tests could not be collected")
        if what == "failing":
            sys.exit("fail without any change: " + ", ".join(value))
        if what == "cold":
            break
        yield value
    process.join()
    for (mutant, _), how in in_forks(value, wanted.jobs, _judge_cold):
        yield mutant, SLOW if how is None else how


def preload() -> None:
    """What no mutant changes; tests then give the same answers each time."""
    hypothesis.settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutation")
    for name in ("cryptography.x509", "envoy.service.discovery.v3.discovery_pb2", "yaml"):
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
    parser.add_argument("--quick", action="store_true", help="only the tests of the two rooms")
    parser.add_argument("--wanted", type=float, default=WANTED, help="share to be noticed (0.95)")
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
        if number % 25 == 0:
            say(f"{number}: judged, {len(survivors)} of them unnoticed so far")
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
    return not report(mutants, wanted.wanted, partial(run, mutants, wanted))


if __name__ == "__main__":
    sys.exit(main())
