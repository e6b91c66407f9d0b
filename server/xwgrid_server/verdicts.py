"""What a verdict does: to a task, to its replicas, and to the standing of their hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from xwgrid import policies
from xwgrid.known_answers import KnownAnswer
from xwgrid.lifecycle import KEEPS_OTHERS_OUT, TASK_MOVES, ReplicaEvent, TaskEvent, move
from xwgrid.model import Fixed, ReplicaId, ReplicaState, TaskState
from xwgrid.policies import Case, Lot, how_caught, policy_of
from xwgrid.ready_tasks import JobCard, pinned, ready_task
from xwgrid.trust import Caught
from xwgrid.voting import Agreed, Attempt, AuditOrder, Hopeless, Undecided, late_ballot_agrees
from xwgrid_server.store import TaskChange, TaskRow

if TYPE_CHECKING:
    from xwgrid_server.batch import Batch

AUDITED_AGAIN = "audited again: the host that rendered it was caught with wrong results"


class Verdicts:
    """Decides the tasks of one batch."""

    def __init__(self, batch: Batch, lot: Lot) -> None:
        self._batch = batch
        self._lot = lot

    def decide(self, task: TaskRow) -> None:
        """Come to a verdict on a task, or judge what came after it."""
        attempts = [self._batch.present(attempt) for attempt in task.attempts]
        if task.state is TaskState.OPEN:
            self._vote(task, attempts, TaskState.OPEN)
        else:
            self._late(task, attempts)

    def reopen(self, task: TaskRow) -> None:
        """Take back the verdict on an accepted task, and come to a new one with what is known now.

        Fixed replication does not look at standing: its verdicts stay.
        """
        card = self._batch.card(task.job)
        if task.state is not TaskState.AGREED or isinstance(policy_of(card.request), Fixed):
            return
        state = move(TASK_MOVES, task.state, TaskEvent.AUDITED_AGAIN)
        for attempt in task.attempts:
            if attempt.state is ReplicaState.AGREED:
                self._batch.judge(task.job, task.number, attempt, ReplicaEvent.REOPENED)
        self._batch.count(task.job, agreed=-1)
        self._batch.index.answers.forget_task(task.job, task.number)
        attempts = [self._batch.present(attempt) for attempt in task.attempts]
        self._vote(structs.replace(task, state=state), attempts, TaskState.AGREED, AUDITED_AGAIN)

    def _vote(self, task: TaskRow, attempts: list[Attempt], was: TaskState, why: str = "") -> None:
        batch = self._batch
        card = batch.card(task.job)
        others = batch.index.others(card, task.number, attempts, batch.now)
        # Who lost a vote that was taken back has a voice in the next one.
        box = [_heard_again(attempt) if attempt.state is ReplicaState.OUTVOTED else attempt for attempt in attempts]
        case = Case(card.request, card.rows, box, task.audits, batch.reputation.standings, others, card.in_steps)
        verdict = policies.decide(case, batch.reputation.grid, self._lot)
        state, wanted, canonical, reason = TaskState.OPEN, 0, None, why
        audits: tuple[AuditOrder, ...] = ()
        match verdict:
            case Agreed():
                state, canonical, reason = move(TASK_MOVES, task.state, TaskEvent.AGREED), verdict.canonical, ""
                self._settle(task, card, attempts, box, verdict)
                batch.count(task.job, agreed=1)
            case Hopeless():
                state, reason = move(TASK_MOVES, task.state, TaskEvent.GIVEN_UP), verdict.reason
                for attempt in attempts:
                    if attempt.state is ReplicaState.VOTING:
                        # Nobody knows who of them was right.
                        credit = batch.reputation.unproved(card, attempt)
                        batch.judge(task.job, task.number, attempt, ReplicaEvent.OUTVOTED, credit=credit)
                batch.count(task.job, failed=1)
            case Undecided():
                wanted, audits = verdict.wanted, verdict.audits
                self._accuse(card, box)
        ready = ready_task(task.number, wanted, task.made, attempts, audits)
        batch.put_task(
            TaskChange(
                job=task.job,
                number=task.number,
                was=was,
                state=state,
                wanted=ready.parts,
                # Losing the only replica of a class frees the task for hosts of any class.
                result_class=pinned(card.request, ready.result_class),
                canonical=canonical,
                reason=reason,
                audits=msgspec.json.encode(audits).decode() if audits else "[]",
            )
        )
        opened = batch.index.offer(task.job, ready, batch.now)
        batch.newly_wanted += max(0, opened - task.wanted)

    def _settle(
        self, task: TaskRow, card: JobCard, attempts: Sequence[Attempt], box: Sequence[Attempt], verdict: Agreed
    ) -> None:
        """Judge all that is in the box, reward who was right and blame who was not, if that was not done before."""
        batch = self._batch
        winners, losers = set(verdict.winners), set(verdict.losers)
        right = [attempt for attempt in attempts if attempt.replica in winners]
        checked = len({attempt.voter for attempt in right}) > 1
        mean = batch.index.mean_seconds(task.job)
        for attempt in attempts:
            if attempt.state is ReplicaState.OUTVOTED and attempt.replica in winners:
                batch.reputation.cleared(card, attempt)
                batch.judge(task.job, task.number, attempt, ReplicaEvent.REOPENED)
            elif attempt.state is not ReplicaState.VOTING:
                continue
            if attempt.replica in losers:
                caught = how_caught(card.request, card.rows, box, attempt)
                credit = batch.reputation.wrong(card, attempt, caught)
                batch.judge(task.job, task.number, attempt, ReplicaEvent.OUTVOTED, credit=credit)
            elif attempt.replica in winners:
                credit = batch.reputation.right(card, attempt, mean, checked=checked, disputed=bool(losers))
                batch.judge(task.job, task.number, attempt, ReplicaEvent.WON, credit=credit)
            else:
                batch.judge(task.job, task.number, attempt, ReplicaEvent.CANCELLED)
        if checked:
            canonical = next(attempt for attempt in attempts if attempt.replica == verdict.canonical)
            # Whoever failed at it is not tested with it either.
            had = KEEPS_OTHERS_OUT | {ReplicaState.FAILED}
            voters = frozenset(attempt.voter for attempt in attempts if attempt.state in had)
            batch.index.decided(KnownAnswer(card, task.number, task.made, canonical.result_class, voters))

    def _late(self, task: TaskRow, attempts: list[Attempt]) -> None:
        """Judge ballots and audits that came after the verdict. The verdict stays."""
        batch = self._batch
        card = batch.card(task.job)
        for attempt in attempts:
            if attempt.state is not ReplicaState.VOTING or attempt.fingerprint is None:
                continue
            agrees = late_ballot_agrees(attempts, attempt) if task.state is TaskState.AGREED else None
            if agrees is None:
                batch.judge(task.job, task.number, attempt, ReplicaEvent.CANCELLED)
            elif agrees:
                credit = batch.reputation.right(card, attempt, batch.index.mean_seconds(task.job), checked=True)
                batch.judge(task.job, task.number, attempt, ReplicaEvent.WON, credit=credit)
            else:
                batch.reputation.wrong(card, attempt, Caught())
                batch.judge(task.job, task.number, attempt, ReplicaEvent.OUTVOTED)

    def _accuse(self, card: JobCard, attempts: Sequence[Attempt]) -> None:
        """Suspect the hosts of results that differ, and of audits that differ from a result, until the vote."""
        if card.request.private or isinstance(policy_of(card.request), Fixed):
            return
        box = {a.replica: a for a in attempts if a.state is ReplicaState.VOTING}
        if len(box) < 2:
            return
        accused: dict[ReplicaId, Attempt] = {}
        ballots = [a for a in box.values() if a.audits is None]
        if len({ballot.result_class for ballot in ballots}) == 1 and len({b.fingerprint for b in ballots}) > 1:
            accused.update({ballot.replica: ballot for ballot in ballots})
        for audit in box.values():
            if audit.audits is not None:
                for other, share in audit.differences.items():
                    if share > 0 and other in box:
                        accused[other], accused[audit.replica] = box[other], audit
        for attempt in accused.values():
            self._batch.reputation.accuse(attempt.host)


def _heard_again(attempt: Attempt) -> Attempt:
    return structs.replace(attempt, state=ReplicaState.VOTING)
