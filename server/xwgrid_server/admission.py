"""Whether a host whose certificate TLS accepted is still welcome: known, not revoked, not banned."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine
from twisted.internet.defer import Deferred

from xwgrid.model import Seconds
from xwgrid_server import accounts
from xwgrid_server.accounts import HostAccount
from xwgrid_server.authority import HostIdentity

# A ban takes hold within this time. A busy host calls many times in it, and the database is asked once.
REMEMBERED_SECONDS: Seconds = 5.0


class Admission:
    """Asks the database about a certificate, and remembers a welcome for a few seconds; a refusal never."""

    def __init__(
        self,
        clock: Callable[[], float],
        engine: Engine,
        run: Callable[[Callable[[Engine, HostIdentity], HostAccount], Engine, HostIdentity], Deferred[HostAccount]],
    ) -> None:
        """`clock` gives seconds that only grow; `run` calls a blocking function in a thread, such as `Threads.run`."""
        self._clock = clock
        self._engine = engine
        self._run = run
        self._welcome: dict[HostIdentity, tuple[float, HostAccount]] = {}  # oldest first

    async def admit(self, identity: HostIdentity) -> HostAccount:
        """Return the host. Raises Unauthenticated or Forbidden, as `accounts.admit`."""
        if remembered := self.remembered(identity):
            return remembered
        now = self._clock()
        host = await self._run(accounts.admit, self._engine, identity)
        self._welcome.pop(identity, None)
        self._welcome[identity] = (now, host)
        return host

    def remembered(self, identity: HostIdentity) -> HostAccount | None:
        """Return the host if it was welcome a moment ago, without asking anybody."""
        self._forget(self._clock() - REMEMBERED_SECONDS)
        known = self._welcome.get(identity)
        return None if known is None else known[1]

    def _forget(self, before: float) -> None:
        while self._welcome:
            identity, (asked_at, _host) = next(iter(self._welcome.items()))
            if asked_at > before:
                return
            del self._welcome[identity]
