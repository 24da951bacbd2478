"""Which workload is a caller? Pure: a caller's uid and ancestry in, a verdict out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.adapters.peercred import Caller
    from limen.services.agent.spec import WorkloadSpec


def attest_caller(caller: Caller | None, specs: Iterable[WorkloadSpec]) -> str | None:
    """The key of the one workload that `caller` is, None if it is none, or more than one.

    A workload with a process takes callers inside that process tree, the nearest tree first.
    One without takes callers with its uid, unless another workload claims that uid as well:
    then nobody can say which it is, and nobody gets an identity.
    """
    if caller is None:
        return None
    known = tuple(specs)
    trees = {spec.process: spec.key for spec in known if spec.process is not None}
    for process in caller.ancestry:
        if process in trees:
            return trees[process]
    by_uid = [spec.key for spec in known if spec.process is None and spec.uid == caller.uid]
    return by_uid[0] if len(by_uid) == 1 else None
