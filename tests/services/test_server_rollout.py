"""The queue of proxies that wait to be compiled, and when a revision is out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from limen.core.model.names import InstanceName, WorkloadName
from limen.services.server.rollout import Rollout


def named(number: int) -> InstanceName:
    return InstanceName(WorkloadName("default", "default", "items"), str(number))


def test_a_revision_is_done_when_all_that_it_touched_was_compiled() -> None:
    rollout = Rollout()
    rollout.add([named(1), named(2), named(3)])
    rollout.mark(7)
    assert rollout.take(2) == [named(1), named(2)]
    rollout.settle()
    assert rollout.done == 0
    rollout.add([named(1)])
    rollout.mark(8)
    assert rollout.take(1) == [named(3)]
    rollout.settle()
    assert rollout.done == 7
    assert rollout.take(9) == [named(1)]
    rollout.settle()
    assert (rollout.done, len(rollout)) == (8, 0)


def test_who_waits_keeps_his_place_and_waits_once() -> None:
    rollout = Rollout()
    rollout.add([named(1), named(2)])
    rollout.mark(1)
    rollout.add([named(2), named(1), named(3)])
    rollout.mark(2)
    assert rollout.take(9) == [named(1), named(2), named(3)]


def test_what_touches_nobody_is_done_when_those_before_it_are() -> None:
    rollout = Rollout()
    rollout.mark(1)
    assert rollout.done == 1
    rollout.add([named(1)])
    rollout.mark(2)
    rollout.mark(3)
    assert rollout.done == 1
    rollout.take(1)
    rollout.settle()
    assert rollout.done == 3


@given(steps=st.lists(st.one_of(st.sets(st.integers(0, 5), max_size=4), st.none()), max_size=20))
def test_nobody_is_forgotten_and_no_revision_is_early(steps: list[set[int] | None]) -> None:
    """A set of numbers touches these; None lets two of them go."""
    rollout = Rollout()
    due: dict[int, int] = {}
    for revision, step in enumerate(steps, 1):
        if step is None:
            for instance in rollout.take(2):
                due.pop(int(instance.instance))
            rollout.settle()
            assert all(oldest > rollout.done for oldest in due.values())
            continue
        rollout.add(named(number) for number in step)
        rollout.mark(revision)
        for number in step:
            due.setdefault(number, revision)
    while rollout:
        for instance in rollout.take(2):
            due.pop(int(instance.instance))
        rollout.settle()
    assert due == {}
    marked = [revision for revision, step in enumerate(steps, 1) if step is not None]
    assert rollout.done == (marked[-1] if marked else 0)
