"""The index of ready tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from xwgrid.eligibility import HostCard
from xwgrid.model import (
    BlenderWork,
    Count,
    Digest,
    DigestWork,
    Frames,
    HostId,
    JobId,
    JobRequest,
    Program,
    TaskNumber,
    UserId,
)
from xwgrid.ready_tasks import JobCard, JobProgress, ReadyTask
from xwgrid.scheduling import Choice, ReadyIndex
from xwgrid.splitting import task_count

NOW = 1_000_000.0
# Hands in the jobs, and has no host.
REQUESTER = 1_000


def request(count: int, replicas: int = 1, priority: int = 0) -> JobRequest:
    return JobRequest(
        name="job", work=DigestWork(), split=Count(count=count), replicas=replicas, quorum=replicas, priority=priority
    )


def card(job: int, owner: int = REQUESTER, *, count: int = 10, replicas: int = 1, priority: int = 0) -> JobCard:
    return JobCard(JobId(job), UserId(owner), request(count, replicas, priority), f"{job:064x}", "python", None)


def host(
    number: int, owner: int | None = None, *, result_class: str = "any", loaded: frozenset[str] = frozenset()
) -> HostCard:
    program = Program(runtime="python", version="3.11.7", result_class=result_class)
    return HostCard(HostId(number), UserId(number if owner is None else owner), {"python": program}, loaded)


class Tasks:
    """A source of fresh tasks that counts how often it is asked."""

    def __init__(self, count: int, wanted: int = 1) -> None:
        self.count = count
        self.wanted = wanted
        self.asked = 0

    def __call__(self, _job: JobId, after: int, limit: int) -> Sequence[ReadyTask]:
        self.asked += 1
        return [ReadyTask(TaskNumber(n), self.wanted) for n in range(after + 1, min(self.count, after + 1 + limit))]


class ManySeen:
    """Ninety-nine owners of every class were seen today, and nobody is about to draw from: whoever asks gets checks."""

    def seen(self, _class: str, _owner: UserId | None) -> int:
        return 99

    settled_at = 0.0

    def is_established(self, _class: str, _runtime: str) -> bool:
        return True

    def count(self, _class: str) -> int:
        return 0

    def is_about(self, _class: str, _owner: UserId) -> bool:
        return False

    def hosts_of(self, _owner: UserId) -> list[HostId]:
        return []

    def draw(self, _class: str, _random: Random) -> UserId | None:
        return None

    def has_loaded(self, _owner: UserId, _spec: Digest) -> bool:
        return False

    def is_proven(self, _owner: UserId) -> bool:
        return False

    def is_tested(self, _owner: UserId) -> bool:
        return True


def index(source: Tasks, *cards: JobCard, window: int = 1_000) -> ReadyIndex:
    made = ReadyIndex(source, ManySeen(), Random(1), window=window)  # noqa: S311  # the same lots in every run
    for each in cards:
        made.add_job(each, {}, 0, JobProgress(task_count(each.request.split)))
    return made


def test_tasks_go_out_in_order_and_once() -> None:
    """A job's tasks are given in order of number, each exactly once, over many windows."""
    source = Tasks(2_500)
    ready = index(source, card(1, count=2_500))
    given = [choice.task for _ in range(300) for choice in ready.choose(host(1), 10, NOW)]
    assert given == list(range(2_500))


def test_choosing_asks_the_store_once_a_window() -> None:
    """A million open tasks cost one question for each thousand given, not more."""
    source = Tasks(1_000_000)
    ready = index(source, card(1, count=1_000_000))
    ready.choose(host(1), 5_000, NOW)
    assert source.asked == 5


def test_a_begun_task_goes_before_a_fresh_one_and_to_another_voter() -> None:
    """The second replica of a task goes to the next other owner, before anything new is begun."""
    ready = index(Tasks(5, wanted=2), card(1, count=5, replicas=2))
    assert [choice.task for choice in ready.choose(host(1), 2, NOW)] == [0, 1]
    assert [(choice.task, choice.number) for choice in ready.choose(host(2), 3, NOW)] == [(0, 1), (1, 1), (2, 0)]


def test_a_class_is_pinned_by_the_first_replica() -> None:
    """A task begun in one class waits for hosts of that class; others begin tasks of their own."""
    ready = index(Tasks(3, wanted=2), card(1, count=3, replicas=2))
    ready.choose(host(1, result_class="avx2"), 1, NOW)
    assert [choice.task for choice in ready.choose(host(2, result_class="sse"), 1, NOW)] == [1]
    assert [choice.task for choice in ready.choose(host(3, result_class="avx2"), 1, NOW)] == [0]


def test_many_foreign_classes_do_not_hide_the_tasks_of_mine() -> None:
    """However many tasks wait for another class, a host finds those of its own at once."""
    ready = index(Tasks(0), card(1, count=500, replicas=2))
    for number in range(300):
        ready.offer(JobId(1), ReadyTask(TaskNumber(number), 1, 1, "avx2", frozenset({1_000 + number})), NOW)
    ready.offer(JobId(1), ReadyTask(TaskNumber(400), 1, 1, "sse", frozenset({7})), NOW)
    assert [choice.task for choice in ready.choose(host(2, result_class="sse"), 1, NOW)] == [400]


def test_requesters_share_evenly() -> None:
    """Two requesters' jobs get alternate leases, however large the older one is; priority goes first."""
    ready = index(Tasks(100_000), card(1, owner=1), card(2, owner=2), card(3, owner=3, priority=5))
    first = ready.choose(host(9), 4, NOW)
    assert {choice.card.job for choice in first} == {JobId(3)}
    ready.remove_job(card(3, owner=3))
    shares = Counter(choice.card.job for number in range(10, 60) for choice in ready.choose(host(number), 2, NOW))
    assert shares[JobId(1)] == shares[JobId(2)] == 50


def test_a_loaded_scene_is_preferred_within_bounds() -> None:
    """A host stays with the scene it has loaded while its owner is not far ahead of the others."""
    ready = index(Tasks(1_000), card(1, owner=1), card(2, owner=2))
    loaded = frozenset({f"{2:064x}"})
    assert [choice.card.job for choice in ready.choose(host(9, loaded=loaded), 2, NOW)] == [JobId(2), JobId(2)]
    assert JobId(1) in {choice.card.job for choice in ready.choose(host(9, loaded=loaded), 2, NOW)}


def test_a_host_without_the_runtime_is_told_so() -> None:
    """No work always comes with a reason."""
    ready = index(Tasks(5), card(1))
    bare = HostCard(HostId(1), UserId(1), {})
    assert ready.choose(bare, 1, NOW) == []
    assert "runtime 'python'" in ready.reason(bare, NOW)
    assert index(Tasks(0)).reason(bare, NOW) == "there is no open job"


def test_a_pinned_renderer_is_a_series() -> None:
    """A job pinned to 4.5 takes 4.5.15, not 4.50 and not 5.0."""
    work = BlenderWork(scene_file="a.blend", width=8, height=8, renderer="4.5")
    pinned = JobRequest(name="film", work=work, split=Frames(first=1, last=9), replicas=1, quorum=1)
    for version, fits in (("4.5.15", True), ("4.5", True), ("4.50", False), ("5.0.1", False)):
        ready = index(Tasks(5), JobCard(JobId(1), UserId(REQUESTER), pinned, "0" * 64, "blender", "4.5"))
        program = Program(runtime="blender", version=version, result_class="x")
        assert bool(ready.choose(HostCard(HostId(1), UserId(1), {"blender": program}), 1, NOW)) is fits


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), max_size=60), st.integers(1, 3))
def test_nobody_gets_two_replicas_of_a_task(calls: list[tuple[int, int]], replicas: int) -> None:
    """Whoever asks in whatever order, no voter gets a task twice and no task more replicas than it wants."""
    ready = index(Tasks(7, wanted=replicas), card(1, count=7, replicas=replicas), window=3)
    given_out: list[Choice] = []
    for number, wanted in calls:
        given_out += ready.choose(host(number), wanted, NOW)
    assert len({(choice.task, choice.voter) for choice in given_out}) == len(given_out)
    assert all(count <= replicas for count in Counter(choice.task for choice in given_out).values())
    assert len({(choice.task, choice.number) for choice in given_out}) == len(given_out)
