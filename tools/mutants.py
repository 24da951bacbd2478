# ruff: noqa: INP001 - beside a script, not in a package
"""The small changes ("mutants") that `mutate.py` makes: which there are, and where."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import CodeType

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
ROOMS = ("limen/core/envoy", "limen/core/policy")

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
    place: str
    """The outermost function around it, as `place_of` names it; "" beside all functions."""

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
        self.classes: list[str] = []
        self.place = ""
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
            self.found.append(Mutant(self.file, line, start, end, old, new, written, self.place))

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
        outer, self.place = self.place, self.place or place_of(self.file, node, self.classes)
        for statement in node.body:
            self.visit(statement)
        self.place = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """As functions: `slots` and the like are no translation."""
        self.classes.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.classes.pop()

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


def place_of(file: str, node: ast.FunctionDef, classes: Sequence[str]) -> str:
    """As `place_of_code` names its code object."""
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return f"{file}:{'.'.join([*classes, node.name])}:{first}"


def place_of_code(code: CodeType) -> str:
    """File, name and first line."""
    try:
        file = Path(code.co_filename).relative_to(SOURCE).as_posix()
    except ValueError:
        return ""
    return f"{file}:{code.co_qualname}:{code.co_firstlineno}"


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
