"""What one batch learns about hosts: their standing, their credit, and the grid's climate."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import structs

from xwgrid import trust
from xwgrid.model import Boinc, HostId, Instant, Seconds
from xwgrid.policies import policy_of, uses_standing
from xwgrid.ready_tasks import JobCard
from xwgrid.trust import NEWCOMER, Caught, Climate, Grid, Standing
from xwgrid.voting import Attempt
from xwgrid_server.store import CreditChange, StandingChange


class Reputation:
    """The standings of all hosts a batch has to do with, as they will be once it is written."""

    def __init__(self, climate: Climate, hosts: int, now: Instant) -> None:
        self.grid = Grid(climate, hosts, now)
        self.standings: dict[HostId, Standing] = {}
        self.caught: list[HostId] = []  # set aside in this batch
        self._changed: set[HostId] = set()
        self._credits: dict[tuple[HostId, str], CreditChange] = {}
        self._met_something = False

    def know(self, standings: Mapping[HostId, Standing]) -> None:
        """Take what the store says of hosts that are not known here yet."""
        for host, standing in standings.items():
            self.standings.setdefault(host, standing)

    def of(self, host: HostId) -> Standing:
        """Return how a host stands."""
        return self.standings.get(host, NEWCOMER)

    def right(
        self, card: JobCard, attempt: Attempt, mean_seconds: Seconds, *, checked: bool, disputed: bool = False
    ) -> Seconds | None:
        """Reward a replica that was right: return the credit it gets, None for none beyond what it has.

        `checked` says whether anybody but its own host looked at it, `disputed` whether somebody found it otherwise.
        A private job earns its hosts nothing.
        """
        # BOINC's rule counts results that nobody looked at, too.
        counts = checked or isinstance(policy_of(card.request), Boinc)
        if card.request.private or attempt.credit > 0 or not counts:
            return None
        share = trust.share_of_frame(attempt.strips)
        units = trust.worth(attempt.seconds, share) if checked else 0.0
        before = self.of(attempt.host)
        after = trust.after_valid(
            before, units, card.owner, test=checked and attempt.audits is None, vindicated=disputed
        )
        self._change(attempt.host, after)
        if not checked:
            return None
        if attempt.audits is None:
            self._met_result(before)
        credit = (mean_seconds or attempt.seconds) * share
        self._credit(card, attempt.host, credit, 1)
        return credit

    def wrong(self, card: JobCard, attempt: Attempt, how: Caught) -> Seconds | None:
        """Blame a replica that was wrong; Return its credit if that changed."""
        if card.request.private:
            return None
        before = self.of(attempt.host)
        first = attempt.audits is None and not before.tested and uses_standing(card.request)
        after = trust.after_wrong(before, self.grid.now, test=attempt.is_test or first)
        self._change(attempt.host, after)
        caught = after.quarantines > before.quarantines
        if caught:
            self.caught.append(attempt.host)
        if attempt.audits is None:
            self._met_result(before)
        climate = self.grid.climate
        if self._was_trusted(before):
            climate = trust.met_wrong(climate, how)
        self._met(trust.met_liar(climate) if caught else climate)
        return self.unproved(card, attempt)

    def unproved(self, card: JobCard, attempt: Attempt) -> Seconds | None:
        """Take back what a replica was given by a verdict that does not stand; return its credit if that changed."""
        if attempt.credit <= 0:
            return None
        self._credit(card, attempt.host, -attempt.credit, -1)
        return 0.0

    def cleared(self, card: JobCard, attempt: Attempt) -> None:
        """Take the blame off a replica that lost a vote and won the one that took its place."""
        if not card.request.private:
            self._change(attempt.host, trust.after_cleared(self.of(attempt.host)))

    def accuse(self, host: HostId) -> None:
        """Suspect a host whose result, or audit, is disputed, until the vote."""
        standing = self.of(host)
        if standing.suspected_until is None or standing.suspected_until < self.grid.now:
            self._change(host, trust.accused(standing, self.grid.now))

    def audited_again(self, host: HostId) -> None:
        """Note that what a caught host had accepted is being looked at again."""
        self._change(host, structs.replace(self.of(host), audit_again=False))

    def changes(self) -> list[StandingChange]:
        """Return the standings to be written."""
        return [_standing_change(host, self.standings[host]) for host in sorted(self._changed)]

    def credits(self) -> list[CreditChange]:
        """Return the credit to be added."""
        return list(self._credits.values())

    def climate_change(self) -> Climate | None:
        """Return the climate if it changed."""
        return self.grid.climate if self._met_something else None

    def _was_trusted(self, standing: Standing) -> bool:
        """Say whether nothing but the present accusation speaks against a host."""
        return not standing.on_record and not trust.is_quarantined(standing, self.grid.now)

    def _met_result(self, before: Standing) -> None:
        if self._was_trusted(before):
            self._met(trust.met_result(self.grid.climate))

    def _met(self, climate: Climate) -> None:
        self.grid = Grid(climate, self.grid.hosts, self.grid.now)
        self._met_something = True

    def _change(self, host: HostId, standing: Standing) -> None:
        self.standings[host] = standing
        self._changed.add(host)

    def _credit(self, card: JobCard, host: HostId, seconds: Seconds, results: int) -> None:
        key = (host, card.application)
        before = self._credits.get(key)
        self._credits[key] = CreditChange(
            host=host,
            application=card.application,
            seconds=seconds + (before.seconds if before else 0.0),
            results=results + (before.results if before else 0),
        )


def _standing_change(host: HostId, standing: Standing) -> StandingChange:
    told = structs.asdict(standing)
    told["earned"] = msgspec.json.encode(dict(standing.earned)).decode() if standing.earned else "{}"
    return StandingChange(host=host, **told)
