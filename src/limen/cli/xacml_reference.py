"""The generated page about XACML: functions, datatypes, algorithms, limits, codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.xacml import limits
from limen.core.policy.xacml.codes import CODES
from limen.core.policy.xacml.combining import POLICY_ALGORITHMS, RULE_ALGORITHMS
from limen.core.policy.xacml.datatypes import ALL
from limen.core.policy.xacml.functions.library import FAMILIES, HIGHER_ORDER, REFUSED
from limen.core.policy.xacml.names import DEPRECATED_DATATYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from limen.core.policy.xacml.combining import Algorithm
    from limen.core.policy.xacml.functions.function import Function

PAGE = "reference/xacml.md"

_INTRODUCTION = """\
<!-- Written by `make docs` from the code. Do not edit. -->

# XACML: every function, datatype, algorithm, limit and code

How to use the engine, and what it chose where the standard leaves a choice, stands in
[XACML policies](../xacml.md). *Old* identifiers are of earlier versions: they are read, and new
policies should not use them. `...` after a parameter: it may be repeated.
"""


def page() -> str:
    """The page."""
    return "\n".join(
        [
            _INTRODUCTION,
            "## Combining algorithms of rules\n",
            _algorithms(RULE_ALGORITHMS.values()),
            "## Combining algorithms of policies\n",
            _algorithms(POLICY_ALGORITHMS.values()),
            "## Datatypes\n",
            _datatypes(),
            *(part for name, family in FAMILIES for part in (f"## {name}\n", _functions(family))),
            "## Functions of functions\n",
            _table(
                ("Identifier", ""),
                [(f"`{f.uri}`", "old" if f.deprecated else "") for f in HIGHER_ORDER.values()],
            ),
            "## Refused by name\n",
            _table(("Identifier", "What to do"), [(f"`{uri}`", do) for uri, do in REFUSED.items()]),
            "## Limits\n",
            _limits(),
            "## Codes\n",
            _table(("Code", "Meaning"), [(f"`xacml-{c}`", m) for c, m in sorted(CODES.items())]),
        ]
    )


def _algorithms(algorithms: Iterable[Algorithm]) -> str:
    rows = [(f"`{a.uri}`", "old" if a.deprecated else "") for a in algorithms]
    return _table(("Identifier", ""), rows)


def _datatypes() -> str:
    old = {new: uri for uri, new in DEPRECATED_DATATYPES.items()}
    rows = [(t.name, f"`{t.uri}`", f"`{old[t.uri]}`" if t.uri in old else "") for t in ALL]
    return _table(("Name", "Identifier", "Old identifier"), rows)


def _functions(family: Iterable[Function]) -> str:
    rows = [(f"`{f.uri}`", f"`{f.signature()}`", "old" if f.deprecated else "") for f in family]
    return _table(("Identifier", "Signature", ""), rows)


_LIMITS = (
    ("MAX_POLICY_BYTES", "bytes of one policy document"),
    ("MAX_REQUEST_BYTES", "bytes of a request, and of its `Content`"),
    ("MAX_POLICY_DEPTH", "policy sets inside one another, references included"),
    ("MAX_EXPRESSION_DEPTH", "expressions inside one another"),
    ("MAX_EXPANDED_POLICIES", "rules and policies, each counted as often as it is referred to"),
    ("MAX_REQUEST_VALUES", "attribute values of a request"),
    ("MAX_INDIVIDUAL_REQUESTS", "decisions that one request asks for"),
    ("MAX_CONTENT_PAIRS", "pairs of a node of `Content` and an element above it"),
    ("MAX_INDIVIDUAL_VALUES", "attribute values of all these decisions together"),
    ("MAX_WORK", "steps of one request: rules, regular expressions, functions of functions"),
    ("MAX_ACCESS_CALLS", "evaluations that `access-permitted` begins for one request"),
    ("MAX_ACCESS_DEPTH", "such evaluations inside one another"),
    ("MAX_INTEGER_DIGITS", "digits of an integer"),
    ("MAX_STRING_LENGTH", "characters of a string that a function makes"),
    ("MAX_REGEX_LENGTH", "characters of a regular expression"),
    ("MAX_REGEX_STATES", "states of its automaton"),
    ("MAX_XPATH_LENGTH", "characters of an XPath"),
)


def _limits() -> str:
    rows = [(what, f"{getattr(limits, name):,}") for name, what in _LIMITS]
    return _table(("At most", ""), rows)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join("| " + " | ".join(cell for cell in line) + " |\n" for line in lines)
