"""The owner's side: their pause (kept over restarts), the hours, and how busy other programs are."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from xwgrid import activation, wire
from xwgrid.activation import Decision, Facts, Standing, Wishes
from xwgrid.errors import GridError
from xwgrid.model import Instant, Seconds
from xwgrid_volunteer import durable
from xwgrid_volunteer.machine_load import MachineLoad

_log = logging.getLogger(__name__)

# The owner waits at most this long for their machine.
_TICK: Seconds = 0.5
_LOAD_EVERY: Seconds = 2.0


class PauseRecord(Struct, frozen=True, kw_only=True):
    """The owner's pause: `pause.json` in the state folder while it lasts."""

    until: Instant | None  # None: until they say otherwise


class Owner:
    """Watches, and tells `follow` the decision, every half second and whenever the owner says something."""

    def __init__(
        self,
        reactor: Any,
        state: Path,
        wishes: Wishes,
        *,
        clock: Callable[[], Instant],
        follow: Callable[[Decision, Decision], None],
    ) -> None:
        self._reactor = reactor
        self._file = state / "pause.json"
        self._wishes = wishes
        self._clock = clock
        self._follow = follow
        self._load = MachineLoad() if wishes.max_load < 1.0 else None
        self._measured_at = -math.inf
        self._timer: Any = None
        self._standing = Standing()
        self.load_of_others: float | None = None
        self.pause_record: PauseRecord | None = self._read()

    @property
    def decision(self) -> Decision:
        """Return whether work is welcome."""
        return self._standing.decision

    def start(self) -> None:
        """Begin to watch; the first decision is made at once."""
        self._tick()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def pause(self, seconds: Seconds | None) -> None:
        """Stop for that time, or until `resume`."""
        self.pause_record = PauseRecord(until=None if seconds is None else self._clock() + seconds)
        durable.write(self._file, wire.encode(self.pause_record))
        self._decide()

    def resume(self) -> None:
        """End the pause; hours and load count as before."""
        self.pause_record = None
        self._file.unlink(missing_ok=True)
        self._decide()

    def _read(self) -> PauseRecord | None:
        try:
            return wire.decode(self._file.read_bytes(), PauseRecord)
        except FileNotFoundError:
            return None
        except (GridError, OSError) as error:
            # In doubt the owner wants their machine.
            _log.warning("%s cannot be read (%s): paused until xwgrid-volunteer resume", self._file, error)
            return PauseRecord(until=None)

    def _tick(self) -> None:
        try:
            if self._load is not None and self._reactor.seconds() - self._measured_at >= _LOAD_EVERY:
                self._measured_at = self._reactor.seconds()
                found = self._load.measure()
                self.load_of_others = self.load_of_others if found is None else found
            self._decide()
        finally:
            self._timer = self._reactor.callLater(_TICK, self._tick)

    def _decide(self) -> None:
        now = self._clock()
        if self.pause_record is not None and self.pause_record.until is not None and self.pause_record.until <= now:
            self.pause_record = None
            self._file.unlink(missing_ok=True)
        local = time.localtime(now)
        facts = Facts(
            now=now,
            minute_of_week=local.tm_wday * 1_440 + local.tm_hour * 60 + local.tm_min + min(local.tm_sec, 59) / 60,
            load_of_others=self.load_of_others,
            paused_until=_until(self.pause_record),
        )
        before = self._standing.decision
        self._standing = activation.decide(self._wishes, facts, self._standing)
        self._follow(before, self._standing.decision)


def _until(pause: PauseRecord | None) -> Instant | None:
    if pause is None:
        return None
    return math.inf if pause.until is None else pause.until
