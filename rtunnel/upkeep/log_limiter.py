"""Bounds on what others can write into the log, so that nobody fills the disk or hides what matters.

    LogLimiter   lines: the first of each format and source in a period; the rest is counted
    LogBudget    bytes: of each source, and of all strangers together; for the whole process

The source of a line is who can cause it: an address, as budgets count addresses, or the name of an admitted client. So
one that floods does not hide the lines about another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.sockets import text_prefix
from rtunnel.upkeep.token_bucket import KeyedBuckets

#: The length of a period, in seconds.
PERIOD = 10.0
#: Lines of one format in a period about one admitted client. One that serves 500 ports comes back with as many lines.
MOST_ADMITTED = 1000
#: How many formats and sources are told apart in a period.
MOST_COUNTED = 4096

#: Bytes of log a second that one source may cause for ever, and the longest bursts of a stranger, and of an admitted
#: client or of ourselves (a process that listens on a thousand ports says so).
RATE, STRANGER_BURST, BURST = 64, 16 * 1024, 256 * 1024
#: The same of all strangers: 22 MB a day, about what :data:`~rtunnel.options.plugins.log_file.MOST_OLD` files keep.
STRANGERS_RATE, STRANGERS_BURST = 256, 256 * 1024
#: The same of all admitted clients and ourselves, of whom there may be thousands.
TOTAL_RATE, TOTAL_BURST = 1024 * RATE, 64 * BURST
#: Seconds between two lines about what was left out.
LEFT_OUT_EVERY = 60.0
#: The longest text in such a line, and of the exception in it, in characters.
MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class Source:
    """Who can cause a line, as the field ``log_from`` of its event says.

    :ivar key: a name, or the key under which an address is counted.
    :ivar is_admitted: whether the key stands for a client that was admitted.
    """

    key: str
    is_admitted: bool = False


#: Of lines that count others.
SUMMARIES: Final = Source("summaries")


class LogLimiter:
    """Logs the first lines of each format and source, and counts the rest.

    The source is what the caller gives as *admitted*: the name or address of a client that was let in. Without it, the
    source is a stranger: the address in the field ``peer``. Where there is none, all lines of a format have one source:
    who comes through a signaling server chooses a new ID each time.

    :param most: lines of one format about one stranger that are logged in each :data:`PERIOD`.
    """

    def __init__(self, log: Logger, clock: IReactorTime, most: int = 20) -> None:
        self._log = log
        self._clock = clock
        self._most = most
        self._since = clock.seconds()
        self._counts: Counter[tuple[str, Source]] = Counter()
        # How many lines of each format were left out, and the level and the fields of the last one.
        self._left_out: Counter[str] = Counter()
        self._last: dict[str, tuple[Any, dict[str, object]]] = {}

    def warn(self, format: str, *, admitted: str | None = None, **fields: object) -> None:
        """Log a warning, or count it."""
        self.emit(LogLevel.warn, format, admitted=admitted, **fields)

    def info(self, format: str, *, admitted: str | None = None, **fields: object) -> None:
        """Log a line of level info, or count it."""
        self.emit(LogLevel.info, format, admitted=admitted, **fields)

    def emit(self, level: object, format: str, *, admitted: str | None = None, **fields: object) -> None:
        """Log a line of any level, or count it."""
        self.tick()
        source = Source(admitted, True) if admitted is not None else _stranger(format, fields)
        most = MOST_ADMITTED if source.is_admitted else self._most
        if (format, source) not in self._counts and len(self._counts) >= MOST_COUNTED:
            source = Source("", source.is_admitted)
        self._counts[format, source] += 1
        if self._counts[format, source] <= most:
            self._log.emit(level, format, log_from=source, **fields)  # type: ignore[arg-type]
        else:
            self._left_out[format] += 1
            self._last[format] = level, fields

    def tick(self) -> None:
        """If the period is over, log how many lines were left out, and begin a new one. Call this regularly."""
        now = self._clock.seconds()
        if now - self._since < PERIOD:
            return
        for format, count in self._left_out.items():
            level, fields = self._last[format]
            self._log.emit(
                level,
                "{count} more times in {seconds:.0f} s, the last one: {what}",
                count=count,
                seconds=now - self._since,
                what=formatEvent({"log_format": format, **fields}),
                log_from=SUMMARIES,
            )
        self._since = now
        self._counts.clear()
        self._left_out.clear()
        self._last.clear()


def _stranger(format: str, fields: dict[str, object]) -> Source:
    peer = fields.get("peer")
    return Source(text_prefix(peer) if isinstance(peer, str) and peer else format)


@implementer(ILogObserver)
class LogBudget:
    """Bounds the bytes of a process's log, except at level debug, which nobody runs with for long.

    Lines that name no source, such as our own, Twisted's and tracebacks, are counted by their format, and by the kind
    of the exception: one bug does not hide another.

    :param target: receives what is within the bounds.
    :param measure: returns how long an event is in the log.
    :param clock: seconds, on a clock that does not run backwards.
    """

    def __init__(self, target: ILogObserver, measure: Callable[[LogEvent], int], clock: Callable[[], float]) -> None:
        now = clock()
        self._target = target
        self._measure = measure
        self._clock = clock
        self._log = Logger(observer=target)
        self._strangers = KeyedBuckets(RATE, STRANGER_BURST, STRANGERS_RATE, STRANGERS_BURST, now)
        self._others = KeyedBuckets(RATE, BURST, TOTAL_RATE, TOTAL_BURST, now)
        self._left_out = 0
        self._last = ""
        self._said_at = now - LEFT_OUT_EVERY

    def __call__(self, event: LogEvent) -> None:
        """Take an event."""
        if event.get("log_level") is LogLevel.debug:
            self._target(event)
            return
        now = self._clock()
        source = event.get("log_from")
        if not isinstance(source, Source):
            kind = getattr(_failure(event), "type", "")
            source = Source(f"{event.get('log_namespace')}: {event.get('log_format')} {kind}", True)
        buckets = self._others if source.is_admitted else self._strangers
        if buckets.take(source, self._measure(event), now):
            self._target(event)
        else:
            self._left_out += 1
            self._last = _text(event)
        if self._left_out and now - self._said_at >= LEFT_OUT_EVERY:
            self._said_at = now
            count, self._left_out = self._left_out, 0
            self._log.warn(
                "{count} lines are not in this log: too many are about the same; the last one: {what}",
                count=count,
                what=self._last,
            )


def _text(event: LogEvent) -> str:
    failure = _failure(event)
    return formatEvent(event)[:MAX_TEXT] + (f" ({failure.getErrorMessage()})"[:MAX_TEXT] if failure else "")


def _failure(event: LogEvent) -> Failure | None:
    """Return the failure that an event tells about, in Twisted's legacy form too."""
    failure = event.get("log_failure") or event.get("failure")
    return failure if isinstance(failure, Failure) else None
