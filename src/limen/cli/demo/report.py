"""What the demo saw: checks with expectation and observation, printed as they come or as data."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried for real."""

    section: str
    name: str
    expected: str
    seen: str
    passed: bool


@dataclass(slots=True)
class Report:
    """Collects checks; prints them to `console` unless `quiet`."""

    quiet: bool = False
    checks: list[Check] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    section: str = ""
    console: Console = field(default_factory=lambda: Console(file=sys.stdout, highlight=False))
    progress: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A section: its title, a spinner while it works (on a terminal), then its checks."""
        self.section = title
        if self.progress.is_terminal:
            with self.progress.status(title):
                yield
            return
        elapsed = time.monotonic() - self.started
        self.progress.print(f"{elapsed:4.1f} s  {title}", soft_wrap=True)
        yield

    def check(
        self, name: str, *, expected: object, seen: object, passed: bool | None = None
    ) -> None:
        """Record one check; `passed` defaults to `expected == seen`."""
        ok = expected == seen if passed is None else passed
        check = Check(self.section, name, str(expected), str(seen), ok)
        self.checks.append(check)
        if not self.quiet:
            mark = "[green]ok  [/green]" if ok else "[red]FAIL[/red]"
            line = f"{mark} {name}: expected {expected}, seen {seen}"
            self.console.print(line, markup=True, soft_wrap=True)

    def measure(self, name: str, value_s: float) -> None:
        """Keep a measured time."""
        self.measures[name] = round(value_s, 4)

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(not c.passed for c in self.checks)

    def summary(self) -> str:
        """The last line."""
        return f"{len(self.checks) - self.failed} checks passed, {self.failed} failed"

    def data(self) -> dict[str, Any]:
        """All of it as JSON-able data."""
        return {
            "checks": [asdict(c) for c in self.checks],
            "measures_s": self.measures,
            "passed": len(self.checks) - self.failed,
            "failed": self.failed,
            "seconds": round(time.monotonic() - self.started, 1),
        }
