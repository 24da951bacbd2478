"""`limen policy`: policies of the decision point; here, what needs no server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from limen.adapters.policy_files import language_of, read_policies, read_rego
from limen.cli.pdp_inputs import source_option
from limen.cli.policy_publish import diff, history, publish, rollback
from limen.cli.policy_test import test
from limen.core.policy.rego.source import DEFAULT_ENTRY
from limen.core.policy.xacml.engine import load_policies, read_documents
from limen.core.policy.xacml.lint import lint as lint_xacml
from limen.core.policy.xacml.lint import not_for_a_proxy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.model.diagnostic import Diagnostic
    from limen.core.policy.sources import SourceBook


@click.group()
def policy() -> None:
    """Policies of the decision point, XACML and Rego: look into them, publish them, go back."""


for _command in (publish, history, diff, rollback, test):
    policy.add_command(_command)


@policy.command()
@click.option(
    "--policy",
    "policies",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Policy file, or directory of .xml or .rego files; repeatable.",
)
@click.option(
    "--root", metavar="ID", help="The policy to begin with; in Rego the decision, as PACKAGE/RULE."
)
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="ID",
    help="An attribute that requests bring (XACML); repeatable. Others are then reported.",
)
@source_option
@click.option(
    "--proxy", is_flag=True, help="Report obligations (XACML) that a proxy cannot carry out, too."
)
def lint(
    policies: tuple[Path, ...],
    root: str | None,
    attributes: tuple[str, ...],
    sources: tuple[Path, ...],
    *,
    proxy: bool,
) -> None:
    """Report what can be loaded and is hardly meant: exit 1 if there is anything.

    Rules that are never reached, never apply or change nothing; no default; attributes that no
    source gives.

    \b
    Example:
      limen policy lint --policy policies/ --root records
      limen policy lint --policy policies/ --source sources.yaml
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    book = _book(sources)
    if language_of(policies) == "rego":
        found = _rego(policies, root, book)
    else:
        known = frozenset(attributes) | (frozenset() if book is None else book.names())
        found = _xacml(policies, root, known if attributes or sources else None, proxy=proxy)
    for finding in found:
        print(finding)
    print(f"{len(found)} findings" if len(found) != 1 else "1 finding")
    sys.exit(1 if found else 0)


def _book(sources: Sequence[Path]) -> SourceBook | None:
    if not sources:
        return None
    from limen.adapters.attributes.reading import read_book  # noqa: PLC0415 - loads clients

    return read_book(sources)


def _xacml(
    policies: Sequence[Path],
    root: str | None,
    attributes: frozenset[str] | None,
    *,
    proxy: bool,
) -> list[Diagnostic]:
    files = read_policies(policies)
    documents, names = [f.document for f in files], [f.path for f in files]
    engine = load_policies(documents, root, files=names)
    trees = read_documents(documents, names)
    found = lint_xacml(trees, engine.root_id.id, attributes)
    return [*found, *not_for_a_proxy(trees)] if proxy else found


def _rego(policies: Sequence[Path], root: str | None, book: SourceBook | None) -> list[Diagnostic]:
    from limen.adapters.rego_process import RegoSet, try_load  # noqa: PLC0415 - loads the engine
    from limen.core.policy.rego.engine import load_rego  # noqa: PLC0415 - as above
    from limen.core.policy.rego.lint import lint_rego  # noqa: PLC0415 - as above

    modules = tuple(read_rego(policies))
    entry = root or DEFAULT_ENTRY
    try_load(RegoSet(modules, (), entry))
    given = None if book is None else book.pairs()
    return lint_rego(load_rego(modules, (), entry).rules, entry, given)
