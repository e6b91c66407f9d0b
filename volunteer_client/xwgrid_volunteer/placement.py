"""Which waiting lease goes to which slot. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from xwgrid.model import Digest, ReplicaId

# One task runs, the next lies in the driver's input already: it goes on without waiting for anybody.
_QUEUE = 2


class Slot(Struct, frozen=True, kw_only=True):
    """A place for one driver process."""

    number: int
    spec: Digest | None = None  # the job its process serves; None: no process
    queue: int = 0  # tasks given to it and not ended


class Waiting(Struct, frozen=True):
    """A lease whose files are here."""

    replica: ReplicaId
    spec: Digest


class Give(Struct, frozen=True):
    """Let this slot do that. A process of another job in it is ended first."""

    slot: int
    replica: ReplicaId
    spec: Digest


def place(slots: Sequence[Slot], waiting: Sequence[Waiting]) -> tuple[Give, ...]:
    """Give out `waiting`, in its order, as far as the slots go.

    An idle slot whose process has the scene loaded comes first, then an empty one, then an idle one of another job,
    and at last the queue of a busy one of the same job.
    """
    now = {slot.number: slot for slot in slots}
    given: list[Give] = []
    for lease in waiting:
        best = min(now.values(), key=lambda slot: _cost(slot, lease.spec), default=None)
        if best is None or _cost(best, lease.spec)[0] > _TAKEN:
            continue
        now[best.number] = replace(best, spec=lease.spec, queue=best.queue + 1)
        given.append(Give(best.number, lease.replica, lease.spec))
    return tuple(given)


_TAKEN = 3


def _cost(slot: Slot, spec: Digest) -> tuple[int, int, int]:
    if slot.queue == 0:
        kind = 0 if slot.spec == spec else 1 if slot.spec is None else 2
    else:
        kind = _TAKEN if slot.spec == spec and slot.queue < _QUEUE else _TAKEN + 1
    return kind, slot.queue, slot.number
