"""Which lease goes to which slot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from xwgrid_volunteer.placement import Give, Slot, Waiting, place

from xwgrid.model import ReplicaId

A, B = "a" * 64, "b" * 64
ONE, TWO, THREE = ReplicaId(1), ReplicaId(2), ReplicaId(3)


def test_the_loaded_process_comes_first() -> None:
    """A task goes to the slot that has its scene loaded, though another is empty."""
    slots = [Slot(number=0), Slot(number=1, spec=A)]
    assert place(slots, [Waiting(ONE, A)]) == (Give(1, ONE, A),)


def test_the_next_task_is_fed_ahead() -> None:
    """While one task runs, the next of the same job already lies in the driver's input; a third waits."""
    slots = [Slot(number=0, spec=A, queue=1)]
    assert place(slots, [Waiting(TWO, A), Waiting(THREE, A)]) == (Give(0, TWO, A),)


def test_another_job_waits_for_an_idle_slot() -> None:
    """A busy slot is not taken away from its job."""
    assert place([Slot(number=0, spec=A, queue=1)], [Waiting(TWO, B)]) == ()
    assert place([Slot(number=0, spec=A)], [Waiting(TWO, B)]) == (Give(0, TWO, B),)


def test_two_tasks_spread_over_two_slots() -> None:
    """Nothing queues while a slot is free."""
    assert {give.slot for give in place([Slot(number=0), Slot(number=1)], [Waiting(ONE, A), Waiting(TWO, A)])} == {0, 1}


specs = st.sampled_from([A, B, "c" * 64])
slot_lists = st.lists(st.tuples(st.none() | specs, st.integers(0, 2)), max_size=5).map(
    lambda found: [Slot(number=n, spec=spec, queue=queue if spec else 0) for n, (spec, queue) in enumerate(found)]
)


@given(slot_lists, st.lists(specs, max_size=12))
def test_no_slot_is_overfull_and_none_idles_needlessly(slots: list[Slot], jobs: list[str]) -> None:
    """Each lease is given at most once, a queue holds at most two tasks of one job, and a slot idles only when
    nothing is left over."""
    waiting = [Waiting(ReplicaId(n), spec) for n, spec in enumerate(jobs)]
    given_out = place(slots, waiting)
    assert len({give.replica for give in given_out}) == len(given_out)
    queues = {slot.number: slot.queue for slot in slots}
    served = {slot.number: slot.spec for slot in slots}
    for give in given_out:
        if queues[give.slot] > 0:
            assert served[give.slot] == give.spec
        served[give.slot] = give.spec
        queues[give.slot] += 1
        assert queues[give.slot] <= 2
    if any(queue == 0 for queue in queues.values()):
        assert len(given_out) == len(waiting)
