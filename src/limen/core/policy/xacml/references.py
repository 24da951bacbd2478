"""Policies by identifier and version, and which one a reference means (core, 5.10 to 5.13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.xacml import syntax as s
from limen.core.policy.xacml.errors import PolicyFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Document = s.Policy | s.PolicySet


def version_key(version: str) -> tuple[int, ...]:
    """For comparing versions: 1.0 equals 1."""
    parts = [int(part) for part in version.split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def matches_version(pattern: str, version: str) -> bool:
    """`*` stands for one number, a last `+` for one and all that follow (core, 5.13)."""
    wanted, found = pattern.split("."), version.split(".")
    for index, part in enumerate(wanted):
        if index >= len(found):
            return False
        if part == "+":
            return True
        if part != "*" and int(part) != int(found[index]):
            return False
    return len(wanted) == len(found)


def _compare(version: str, pattern: str) -> int:
    """-1, 0, 1: `version` before, within or after `pattern`."""
    wanted, found = pattern.split("."), version.split(".")
    for index in range(max(len(wanted), len(found))):
        part = wanted[index] if index < len(wanted) else "0"
        if part == "+":
            return 0
        number = int(found[index]) if index < len(found) else 0
        if part != "*" and number != int(part):
            return -1 if number < int(part) else 1
    return 0


def accepts(reference: s.Reference, version: str) -> bool:
    """Whether the reference may mean this version."""
    if reference.version and not matches_version(reference.version, version):
        return False
    if reference.earliest and _compare(version, reference.earliest) < 0:
        return False
    return not (reference.latest and _compare(version, reference.latest) > 0)


class Shelf:
    """All policies of the documents, those inside policy sets too."""

    def __init__(self, documents: Iterable[Document]) -> None:
        """Raises `PolicyFault` if one identifier and version occurs twice."""
        self._found: dict[tuple[bool, str], list[Document]] = {}
        for document in documents:
            for policy in within(document):
                self._put(policy)

    def _put(self, policy: Document) -> None:
        kept = self._found.setdefault((isinstance(policy, s.PolicySet), policy.id), [])
        for other in kept:
            if version_key(other.version) == version_key(policy.version):
                where = f" (also {other.file}:{other.line})" if other.file else ""
                message = f"{policy.id} version {policy.version} occurs twice{where}"
                raise PolicyFault("xacml-duplicate-policy", message, policy.line)
        kept.append(policy)

    def resolve(self, reference: s.Reference) -> Document:
        """The newest version that the reference accepts. Raises `PolicyFault`."""
        kind = "policy set" if reference.policy_set else "policy"
        known = self._found.get((reference.policy_set, reference.id), [])
        fitting = [policy for policy in known if accepts(reference, policy.version)]
        if fitting:
            return max(fitting, key=lambda policy: version_key(policy.version))
        if known:
            have = ", ".join(sorted(policy.version for policy in known))
            message = f"no version of {kind} {reference.id} fits; there is {have}"
        else:
            message = f"{kind} {reference.id} is not among the documents"
        raise PolicyFault("xacml-unresolved-reference", message, reference.line)


def within(document: Document) -> Iterator[Document]:
    """The document and every policy inside it, without references."""
    yield document
    if isinstance(document, s.PolicySet):
        for child in document.children:
            if not isinstance(child, s.Reference):
                yield from within(child)


def references_in(document: Document) -> Iterator[s.Reference]:
    """Every reference inside the document."""
    if isinstance(document, s.PolicySet):
        for child in document.children:
            if isinstance(child, s.Reference):
                yield child
            else:
                yield from references_in(child)
