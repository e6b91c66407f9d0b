"""The daemon's process: reactor, log, signals. Importing this installs the reactor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from twisted import logger as twisted_logger
from twisted.internet import reactor as twisted_reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from xwgrid.errors import GridError
from xwgrid_volunteer.daemon import Daemon, lock
from xwgrid_volunteer.enrolment import Identity
from xwgrid_volunteer.settings import VolunteerSettings

_log = logging.getLogger(__name__)
# Both offer interfaces that type checkers do not see.
reactor: Any = twisted_reactor
logger: Any = twisted_logger


def run_daemon(
    settings: VolunteerSettings,
    identity: Identity,
    *,
    client_version: str,
    uniform: Callable[[float, float], float],
) -> bool:
    """Run until SIGTERM or SIGINT. Returns False when the daemon could not start; the log says why.

    Raises Conflict when another daemon uses the state folder.
    """
    held = lock(settings.state_folder)
    # Twisted's own word on every connection is for its developers; what fails is said by us.
    only_trouble = logger.LogLevelFilterPredicate(defaultLogLevel=logger.LogLevel.warn)
    observer = logger.FilteringLogObserver(logger.STDLibLogObserver(), [only_trouble])
    logger.globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    daemon = Daemon(reactor, settings, identity, uniform=uniform, client_version=client_version)
    started: list[bool] = []

    def failed(failure: Failure) -> None:
        error = failure.value
        _log.critical("%s", error.message if isinstance(error, GridError) else failure.getTraceback())
        started.append(False)
        reactor.stop()

    def begin() -> None:
        Deferred.fromCoroutine(daemon.start()).addErrback(failed)

    reactor.callWhenRunning(begin)
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(daemon.stop()))
    reactor.run()
    del held
    return not started
