"""`limen policy`: policies of the decision point; here, what needs no server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from limen.adapters.policy_files import language_of, read_bounded, read_policies, read_rego
from limen.cli.policy_publish import diff, history, publish, rollback
from limen.core.policy.rego.source import DEFAULT_ENTRY, MAX_DATA_BYTES
from limen.core.policy.xacml.engine import load_policies, read_documents
from limen.core.policy.xacml.lint import lint as lint_xacml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.model.diagnostic import Diagnostic


@click.group()
def policy() -> None:
    """Policies of the decision point, XACML and Rego: look into them, publish them, go back."""


for _command in (publish, history, diff, rollback):
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
    help="An attribute that a source gives (XACML); repeatable. Others are then reported.",
)
def lint(policies: tuple[Path, ...], root: str | None, attributes: tuple[str, ...]) -> None:
    """Report what can be loaded and is hardly meant: exit 1 if there is anything.

    Rules that are never reached, never apply or change nothing; no default; attributes that no
    source gives.

    \b
    Example:
      limen policy lint --policy policies/ --root records
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if language_of(policies) == "rego":
        found = _rego(policies, root)
    else:
        found = _xacml(policies, root, frozenset(attributes) if attributes else None)
    for finding in found:
        print(finding)
    print(f"{len(found)} findings" if len(found) != 1 else "1 finding")
    sys.exit(1 if found else 0)


def _xacml(
    policies: Sequence[Path], root: str | None, attributes: frozenset[str] | None
) -> list[Diagnostic]:
    files = read_policies(policies)
    documents, names = [f.document for f in files], [f.path for f in files]
    engine = load_policies(documents, root, files=names)
    return lint_xacml(read_documents(documents, names), engine.root_id.id, attributes)


def _rego(policies: Sequence[Path], root: str | None) -> list[Diagnostic]:
    from limen.adapters.rego_process import RegoSet, try_load  # noqa: PLC0415 - loads the engine
    from limen.core.policy.rego.engine import load_rego  # noqa: PLC0415 - as above
    from limen.core.policy.rego.lint import lint_rego  # noqa: PLC0415 - as above

    modules = tuple(read_rego(policies))
    entry = root or DEFAULT_ENTRY
    try_load(RegoSet(modules, (), entry))
    return lint_rego(load_rego(modules, (), entry).rules, entry)


@policy.command()
@click.option(
    "--policy",
    "policies",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Rego file, or directory of them with their tests; repeatable.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Data document, JSON; repeatable.",
)
def test(policies: tuple[Path, ...], data: tuple[Path, ...]) -> None:
    """Run the tests of Rego policies: the rules whose names begin with test_.

    Names each that does not hold and each rule that no test reaches; exits with 1 if a test fails
    or there is none.

    \b
    Example:
      limen policy test --policy policies/
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from limen.adapters.rego_process import RegoSet, run_tests  # noqa: PLC0415 - loads the engine

    if language_of(policies) != "rego":
        message = "cases for XACML are run with: limen pdp evaluate --batch DIR"
        raise click.UsageError(message)
    documents = tuple(
        read_bounded(path, MAX_DATA_BYTES).decode("utf-8", "replace") for path in data
    )
    report = run_tests(RegoSet(tuple(read_rego(policies, tests=True)), documents))
    failed = [result for result in report["tests"] if not result["passed"]]
    for result in failed:
        print(f"FAIL {result['name']}  {result['file']}:{result['line']}  {result['reason']}")
    for rule in report["unreached"]:
        print(f"no test reaches {rule['name']}  {rule['file']}:{rule['line']}")
    print(f"{len(report['tests']) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed or not report["tests"] else 0)
