"""What the server writes to standard error: lines for people, and never a token."""

from __future__ import annotations

import re
from typing import Any, TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEventAsClassicLogText,
    globalLogBeginner,
)

_TOKEN = re.compile(r"(xwgrid-(?:enrol|requester)-)[A-Za-z0-9_=-]+")


def without_secrets(text: str) -> str:
    """Return `text` with every token cut down to its kind. None should be in it; an exception's message might."""
    return _TOKEN.sub(r"\1…", text)


def begin(level: str, stream: TextIO) -> None:
    """Write what is logged from now on, at `level` (debug, info, warn, error) or above, to `stream`."""
    # Twisted's interfaces are zope's, which mypy cannot see.
    observer: Any = FileLogObserver(stream, _line)
    levels: Any = LogLevelFilterPredicate(defaultLogLevel=LogLevel.levelWithName(level))
    chosen: Any = FilteringLogObserver(observer, [levels])
    globalLogBeginner.beginLoggingTo([chosen], redirectStandardIO=False)


def _line(event: LogEvent) -> str | None:
    text = formatEventAsClassicLogText(event)
    return None if text is None else without_secrets(text)
