"""Policies of others, loaded once to see whether they can be: in a process that may die.

`python -m limen.adapters.policy_trial` is the child; it reads one JSON document and writes one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from limen.adapters.bounded_child import ask_child, read_job
from limen.core.model.decision import DecisionPolicy, Language
from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.policy.rego.source import DEFAULT_ENTRY, RegoModule
from limen.core.policy.xacml.engine import load_policies, read_documents
from limen.core.policy.xacml.lint import about_bodies
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from limen.core.model.resource import Resource

DEADLINE_S = 20
_FIELDS = {Language.XACML: ("policies", "xml"), Language.REGO: ("modules", "rego")}


def try_policies(
    resources: Sequence[Resource], deadline_s: float = DEADLINE_S
) -> tuple[Diagnostic, ...]:
    """An error for everything that keeps one of these policies from being loaded.

    The line is that of the document, as far as it is known; the message begins with the place in
    the policy's own text.
    """
    policies = [r for r in resources if isinstance(r.spec, DecisionPolicy)]
    if not policies:
        return ()
    found = _ask([_job(r) for r in policies], deadline_s)
    if found is not None:
        pairs = zip(policies, found, strict=True)
        return tuple(_placed(r, one) for r, findings in pairs for one in findings)
    if len(policies) > 1:  # one of them is too much for the process: which?
        return tuple(d for r in policies for d in try_policies([r], deadline_s))
    return (
        _error(
            policies[0],
            "policy-too-large",
            "the policy cannot be loaded: it takes too much time or memory to read",
            hint="make expressions and rules smaller",
        ),
    )


def _job(resource_: Resource) -> dict[str, Any]:
    policy = resource_.spec
    if not isinstance(policy, DecisionPolicy):
        raise TypeError(f"{resource_.key} is no policy")
    return {
        "language": policy.language.value,
        "texts": [[one.name, one.text] for one in policy.texts],
        "data": [one.text for one in policy.data],
        "root": policy.root,
    }


def _ask(jobs: list[dict[str, Any]], deadline_s: float) -> list[list[dict[str, Any]]] | None:
    """The findings about each job; None: the child died, or did not answer in time."""
    found: list[list[dict[str, Any]]] | None = ask_child(
        "limen.adapters.policy_trial", {"jobs": jobs}, deadline_s
    )
    return found


def _placed(resource_: Resource, found: dict[str, Any]) -> Diagnostic:
    """A finding of the child at its place in the document."""
    policy, origin = resource_.spec, resource_.origin
    if not isinstance(policy, DecisionPolicy):
        raise TypeError(f"{resource_.key} is no policy")
    file, line = str(found["file"]), int(found["line"])
    field, content = _FIELDS[policy.language]
    names = [one.name for one in policy.texts]
    path, inside = "/spec", 0
    if file in names:
        index = names.index(file)
        path = f"/spec/{field}/{index}/{content}"
        inside = line if "\n" in policy.texts[index].text.rstrip("\n") else 0
    place = f"{file}:{line}: " if file else ""
    return Diagnostic(
        Severity.ERROR,
        str(found["code"]),
        f"{place}{found['message']}",
        origin.file,
        origin.line(path) + inside,
        path,
        str(found["hint"]),
    )


def _error(resource_: Resource, code: str, message: str, hint: str) -> Diagnostic:
    origin = resource_.origin
    text = f"{resource_.key}: {message}"
    return Diagnostic(Severity.ERROR, code, text, origin.file, origin.line("/spec"), "/spec", hint)


def _findings(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        _load(job)
    except InvalidInput as error:
        plain = Diagnostic(Severity.ERROR, error.code, error.message, hint=error.hint)
        for found in error.diagnostics or (plain,):
            yield {**asdict(found), "severity": found.severity.value}


def _load(job: dict[str, Any]) -> None:
    names = [name for name, _ in job["texts"]]
    if job["language"] == Language.XACML.value:
        documents = [text.encode() for _, text in job["texts"]]
        load_policies(documents, job["root"] or None, files=names)
        bodies = about_bodies(read_documents(documents, names))
        if bodies:
            raise InvalidInput("a proxy has no body to redact", diagnostics=bodies)
        return
    from limen.core.policy.rego.engine import load_rego  # noqa: PLC0415 - XACML needs no Rego

    modules = [RegoModule(name, text) for name, text in job["texts"]]
    load_rego(modules, [text.encode() for text in job["data"]], job["root"] or DEFAULT_ENTRY)


def _main() -> None:
    json.dump([list(_findings(job)) for job in read_job()["jobs"]], sys.stdout)


if __name__ == "__main__":
    _main()
