"""Load, decide, save: the only place where the steps meet. Synchronous, over a `Store`; `now` is passed in.

A batch of work calls is decided together: what they report first, then what they may take. Everything in an answer is
committed before the answer is returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import msgspec
from msgspec import structs

from xwgrid.applications.registry import application_of
from xwgrid.auditing import DENOISED
from xwgrid.drawing import Lots
from xwgrid.eligibility import HostCard
from xwgrid.errors import GridError
from xwgrid.lifecycle import ReplicaEvent
from xwgrid.model import (
    Cause,
    HostFacts,
    InputFile,
    Instant,
    ReplicaId,
    ReplicaState,
    ResultFile,
    Seconds,
    TaskNumber,
)
from xwgrid.ready_tasks import JobCard, pinned
from xwgrid.scheduling import Choice, ReadyIndex
from xwgrid.splitting import arguments
from xwgrid.tolerances import Tolerances
from xwgrid.trust import NEWCOMER, told
from xwgrid.voting import Attempt, AuditOrder
from xwgrid.wire import EndedLease, Lease, WorkAnswer, WorkRequest
from xwgrid_server.answering import Answer, named, turned_away
from xwgrid_server.batch import Batch, others
from xwgrid_server.calls import Call, Effects, LeaseTerms, Reading, ReadOrder, Served
from xwgrid_server.census import Census
from xwgrid_server.job_desk import JobDesk
from xwgrid_server.reporting import take_reading, take_report, why_ended
from xwgrid_server.reputation import Reputation
from xwgrid_server.store import (
    CallFacts,
    Claim,
    HostChange,
    HostRow,
    Renewal,
    ReplicaRow,
    Saved,
    Store,
    TaskKey,
)

# Leases a host may hold at once: enough for a large machine that fetches ahead, too few to starve everyone else.
MOST_LEASES_PER_HOST = 256
# A lease is renewed in the database only when this share of it has passed: most heartbeats write nothing.
RENEW_AFTER = 1 / 3
SEEN_EVERY: Seconds = 60.0
SLAB = 10_000
# A lease ends, however often it is renewed, after as many times what its job allows a replica: one may be before it in
# its host's queue, and the owner may stop it for a while.
LONGEST_LEASES = 3
LEASE_SLACK: Seconds = 3_600.0
# Heartbeats the server wants to answer a second at most; with more hosts it asks each to call less often.
HEARTBEATS_A_SECOND = 300
LONGEST_HEARTBEAT: Seconds = 600.0
# The largest quorum a job may ask for: a class with more voters than that keeps no job waiting.
LARGEST_QUORUM = 16


# A host that the operator set aside has what it had accepted looked at again within this time.
LOOK_EVERY: Seconds = 60.0


class Coordinator(JobDesk):
    """Decides for the whole grid. One thread at a time."""

    def __init__(self, store: Store, terms: LeaseTerms, now: Instant, random: Random) -> None:
        self._terms = terms
        rows = store.seen_since(now - Census.MEMORY)
        self._census = Census(rows, now, terms.heartbeat_seconds * terms.heartbeats_per_lease)
        super().__init__(store, ReadyIndex(store.ready, self._census, random, draw_from=terms.draw_from))
        # Where audits look must not be foretold: the numbers hang on a secret that lives as long as this process.
        self._lots = Lots(random.randbytes(32))
        # Hosts could not call while there was no server: nothing expires before they had the time to.
        self._expire_from = now + self.lease_seconds
        self._look_from = now + LOOK_EVERY
        self.start_over()

    @property
    def heartbeat_seconds(self) -> Seconds:
        """When a host should call again, at the latest."""
        by_load = self._census.hosts() / HEARTBEATS_A_SECOND
        return min(max(self._terms.heartbeat_seconds, by_load), LONGEST_HEARTBEAT)

    @property
    def lease_seconds(self) -> Seconds:
        """How long a lease lives after the call that listed it."""
        return self.heartbeat_seconds * self._terms.heartbeats_per_lease

    # --- batches ------------------------------------------------------------------------------------------------

    def serve(self, calls: Sequence[Call], readings: Sequence[Reading], now: Instant) -> Served:
        """Decide a batch of work calls and readings; return when it is committed.

        Raises what the store raises. Mostly nothing was written then; in any case the next step begins with the truth.
        """
        with self._surely():
            return self._serve(calls, readings, now)

    def _serve(self, calls: Sequence[Call], readings: Sequence[Reading], now: Instant) -> Served:
        again = self._audit_again(now) if self._caught else Effects()
        facts = self._store.load({call.host for call in calls}, named(calls) | {r.replica for r in readings})
        batch = self._batch(facts.replicas, now)
        batch.reputation.know({host: row.standing for host, row in facts.hosts.items() if row.standing != NEWCOMER})
        for reading in readings:
            take_reading(batch, reading)
        answers: list[Answer | GridError] = []
        for call in calls:
            host = facts.hosts.get(call.host)
            if host is None or host.state != "active":
                answers.append(turned_away(call.host, host))
                continue
            answer = Answer(host, call)
            answers.append(answer)
            if call.news:
                self._news(batch, facts, answer)
            self._census.calls(call.host, call.request.loaded, batch.reputation.of(call.host), now)
        batch.decide()
        lease_seconds = self.lease_seconds
        for answered in answers:
            if isinstance(answered, Answer):
                self._give(batch, answered, lease_seconds)
        saved = self._save(batch)
        effects = self._effects(batch, saved, again)
        heartbeat_seconds = self.heartbeat_seconds
        finished = [self._finish(answer, batch, saved.refused, heartbeat_seconds) for answer in answers]
        return Served(finished, effects)

    def expire(self, now: Instant, most: int = 500) -> Effects:
        """Mark leases lost that ran out, at most so many. Returns what follows from it."""
        if now < self._expire_from:
            return Effects()
        with self._surely():
            return self._expire(now, most)

    def _expire(self, now: Instant, most: int) -> Effects:
        if now >= self._look_from:
            self._look_from = now + LOOK_EVERY
            self._caught = list(self._store.to_audit_again())
            self._index.eligible.tolerances = Tolerances(self._store.tolerances())
        again = self._audit_again(now) if self._caught else Effects()
        due = self._store.due(now, most)
        if not due:
            return again
        batch = self._batch({row.attempt.replica: row for row in due}, now)
        for row in due:
            message = f"the host did not call within {self.lease_seconds:.0f} s"
            batch.end(row, ReplicaEvent.EXPIRED, cause=Cause.LOST, message=message)
            self.progress.lease_ended(row.job, row.attempt.replica)
        batch.decide()
        return self._effects(batch, self._save(batch), again)

    def next_draw(self) -> Instant | None:
        """Return when `draw` should be called next; None while nobody is to be drawn."""
        return self._index.next_draw()

    def draw(self, now: Instant) -> Effects:
        """Draw owners for the checks that are due; after a restart it is done anew."""
        owners, opened = self._index.draw(now)
        drawn = tuple(host for owner in owners for host in self._census.hosts_of(owner))
        forgotten = self._index.to_think_over(now)
        if not forgotten:
            return Effects(wanted=opened, drawn=drawn)
        with self._surely():
            batch = self._batch({}, now)
            batch.think_over(forgotten)
            batch.decide()
            return self._effects(batch, self._save(batch), Effects(wanted=opened, drawn=drawn))

    def _audit_again(self, now: Instant) -> Effects:
        """Take back the verdicts on what hosts that were caught had accepted, in jobs that are not done."""
        batch = self._batch({}, now)
        keys: dict[TaskKey, None] = {}
        for host in self._caught:
            keys.update(dict.fromkeys(self._store.accepted_of(host)))
        batch.look_again(list(keys))
        batch.reputation.know(self._store.standings(self._caught))
        for host in self._caught:
            batch.reputation.audited_again(host)
        self._caught = []
        return self._effects(batch, self._save(batch), Effects())

    def _batch(self, rows: Mapping[ReplicaId, ReplicaRow], now: Instant) -> Batch:
        reputation = Reputation(self._climate, self._census.hosts(), now)
        return Batch(self._store, self._index, self._card, rows, reputation=reputation, lot=self._lots)

    def _save(self, batch: Batch) -> Saved:
        changes = batch.changes()
        saved = self._store.save(changes)
        self._climate = batch.reputation.grid.climate
        self._caught += batch.reputation.caught
        for job in {claim.job for claim in batch.claims if claim.id in saved.refused} | set(saved.ended):
            self._take_up(job)
        return saved

    def _effects(self, batch: Batch, saved: Saved, before: Effects) -> Effects:
        return Effects(
            before.to_read + batch.read_orders(),
            before.changed | batch.touched,
            before.ended + tuple(saved.ended),
            before.wanted + batch.newly_wanted,
            before.drawn + tuple(batch.freed),
        )

    # --- what a call brings -------------------------------------------------------------------------------------

    def _news(self, batch: Batch, facts: CallFacts, answer: Answer) -> None:
        host, request = answer.host, answer.call.request
        self._see(batch, host, request.facts)
        reported = set()
        for report in request.reports:
            reported.add(report.replica)
            uploaded = facts.uploaded.get(report.replica, frozenset())
            confirmation = take_report(batch, self._card, host.host, report, uploaded)
            row = batch.row(report.replica)
            if row is not None and row.attempt.state is not ReplicaState.LEASED:
                self.progress.lease_ended(row.job, report.replica)
            answer.confirmed.append(confirmation)
        held = {each.replica: each for each in request.held}
        for replica, each in held.items():
            row = batch.row(replica)
            if replica in reported:
                continue
            if row is None or row.attempt.host != host.host or row.attempt.state is not ReplicaState.LEASED:
                answer.ended.append(EndedLease(replica=replica, message=why_ended(row, host.host)))
                continue
            if each.done is not None:
                self.progress.note(row.job, replica, each.done)
            self._renew(batch, row, request.call)
        for row in batch.leases_of(host.host):
            replica = row.attempt.replica
            if replica in held or replica in reported:
                continue
            if row.acknowledged_call is None:
                answer.again.append(row)
            elif request.call > row.acknowledged_call:
                message = "the volunteer came back without it"
                batch.end(row, ReplicaEvent.DROPPED, cause=Cause.DROPPED, message=message)
                self.progress.lease_ended(row.job, replica)

    def _see(self, batch: Batch, host: HostRow, facts: HostFacts | None) -> None:
        for result_class in self._census.see(host, facts, batch.now, self.lease_seconds):
            voters = self._census.seen(result_class, None)
            own = self._census.seen(result_class, host.owner)
            # With one voter more a class may be able to form a quorum: then hosts that wait have work now.
            if voters <= LARGEST_QUORUM or (own <= LARGEST_QUORUM and self._index.has_private(host.owner)):
                batch.newly_wanted += min(max(voters, own), LARGEST_QUORUM)
        if facts is not None or host.last_seen_at is None or batch.now - host.last_seen_at > SEEN_EVERY:
            text = None if facts is None or facts == host.facts else msgspec.json.encode(facts).decode()
            batch.hosts[host.host] = HostChange(id=host.host, last_seen_at=batch.now, facts=text)

    def _renew(self, batch: Batch, row: ReplicaRow, call: int) -> None:
        left = (row.next_transition or 0) - batch.now
        if batch.now - row.leased_at > LONGEST_LEASES * batch.card(row.job).request.limits.seconds + LEASE_SLACK:
            return  # it says that it goes on, and can have no right to: its lease runs out
        if row.acknowledged_call is None or left < self.lease_seconds * (1 - RENEW_AFTER):
            replica = row.attempt.replica
            batch.renewals[replica] = Renewal(
                id=replica, next_transition=batch.now + self.lease_seconds, acknowledged_call=call
            )

    # --- what a call takes --------------------------------------------------------------------------------------

    def _give(self, batch: Batch, answer: Answer, lease_seconds: Seconds) -> None:
        host, request = answer.host, answer.call.request
        if request.want == 0:
            return
        leases = batch.leases_of(host.host)
        card = self._host_card(batch, host, request, leases)
        room = MOST_LEASES_PER_HOST - len(leases)
        choices = self._index.choose(card, min(request.want, room), batch.now) if room > 0 else []
        if not choices and not answer.again:
            answer.reason = self._index.reason(card, batch.now)
        for choice in choices:
            claim = self._claim(choice, host, batch.now, lease_seconds)
            batch.claims.append(claim)
            batch.touched.add((claim.job, claim.task))
            answer.given.append((claim, choice.card))

    def _claim(self, choice: Choice, host: HostRow, now: Instant, lease_seconds: Seconds) -> Claim:
        replica = ReplicaId(self._next_replica)
        self._next_replica = ReplicaId(replica + 1)
        return Claim(
            id=replica,
            job=choice.card.job,
            task=choice.task,
            number=choice.number,
            host=host.host,
            voter=choice.voter,
            result_class=choice.result_class,
            pinned=pinned(choice.card.request, choice.pin or choice.result_class),
            leased_at=now,
            next_transition=now + lease_seconds,
            audits=None if choice.audit is None else choice.audit.audits,
            strips=None if choice.audit is None else choice.audit.strips,
            audits_left=msgspec.json.encode(choice.left).decode() if choice.left else "[]",
            is_test=choice.is_test,
            is_beyond=choice.is_beyond,
            drawn=choice.drawn,
        )

    def _host_card(self, batch: Batch, host: HostRow, request: WorkRequest, leases: Sequence[ReplicaRow]) -> HostCard:
        return HostCard(
            host.host,
            host.owner,
            self._census.programs(host.host),
            frozenset(request.loaded),
            batch.reputation.of(host.host),
            has_frame=any(row.attempt.audits is None for row in leases) if leases else False,
        )

    def _finish(
        self, answer: Answer | GridError, batch: Batch, refused: frozenset[ReplicaId], heartbeat_seconds: Seconds
    ) -> WorkAnswer | GridError:
        if isinstance(answer, GridError):
            return answer
        lease_seconds = heartbeat_seconds * self._terms.heartbeats_per_lease
        leases = [
            self._lease(row.attempt.replica, self._card(row.job), row.task, _order_of(row.attempt), lease_seconds)
            for row in answer.again
        ]
        leases += [
            self._lease(claim.id, card, claim.task, _order_of(claim), lease_seconds)
            for claim, card in answer.given
            if claim.id not in refused
        ]
        request = answer.call.request
        says = (answer.call.news and (request.facts is not None or request.reports)) or answer.reason is not None
        return WorkAnswer(
            heartbeat_seconds=heartbeat_seconds,
            leases=tuple(leases),
            ended=tuple(answer.ended),
            confirmed=tuple(answer.confirmed),
            reason=None if leases else answer.reason,
            standing=told(batch.reputation.of(answer.host.host), batch.now) if says else None,
        )

    def _lease(
        self, replica: ReplicaId, card: JobCard, task: TaskNumber, audit: AuditOrder | None, seconds: Seconds
    ) -> Lease:
        told = arguments(card.request, task)
        inputs: tuple[InputFile, ...] = ()
        if audit is not None:
            told["strips"] = audit.strips
            inputs = self._raw_passes(card, task, audit.audits) if audit.strips == DENOISED else ()
        return Lease(
            replica=replica,
            job=card.job,
            task=task,
            spec=card.spec,
            arguments=told,
            lease_seconds=seconds,
            inputs=inputs,
        )

    def _raw_passes(self, card: JobCard, task: TaskNumber, author: ReplicaId) -> tuple[InputFile, ...]:
        """Return the files that a result's picture was made of."""
        _, files = self._store.result(author)
        raw = application_of(card.request).raw_names(card.request, task)
        decoded = msgspec.json.decode(files, type=tuple[ResultFile, ...])
        return tuple(InputFile(path=f.name, sha256=f.sha256, size=f.size) for f in decoded if f.name in raw)

    def unread(self) -> list[ReadOrder]:
        """Return the results that wait to be read since before this coordinator was made."""
        orders = []
        for replica in self._store.unread():
            row, files = self._store.result(replica)
            decoded = msgspec.json.decode(files, type=tuple[ResultFile, ...])
            card, attempt = self._card(row.job), row.attempt
            order = ReadOrder(replica, card.request, row.job, row.task, decoded, attempt.strips)
            box = self._store.boxed([(row.job, row.task)]).get((row.job, row.task), ())
            beside = others(card, order, attempt, box, self._index.eligible.tolerances)
            orders.append(structs.replace(order, others=beside))
        return orders


def _order_of(replica: Attempt | Claim) -> AuditOrder | None:
    """Return the audit that a replica is, None for a full one."""
    return None if replica.audits is None else AuditOrder(replica.audits, replica.strips or "")
