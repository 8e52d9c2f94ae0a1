"""Where the log goes and what it looks like.

``twistd`` asks the application for an ``ILogObserver`` before it makes one of its own, and a plugin's service learns
its application in ``setServiceParent``. There :class:`~rtunnel.options.plugins.run.PluginService` sets the observer
that is made here. So logging is the same for a plugin and for a ``.tac`` file, which needs only its two usual lines::

    application = Application("rtunnel-server")
    server.makeService(options).setServiceParent(application)

The options of ``twistd`` say where the log goes: ``--logfile`` (``-`` is standard output) or ``--syslog``; by default
it is standard output in the foreground and ``twistd.log`` for a daemon. SIGUSR1 renews a file. With ``twistd
--logger`` that logger is used, and ``--log-format`` and ``--log-level`` have no effect. Syslog has its own format.

The commands of ``rtunnel`` always log to standard output, and their text format is that of
:mod:`rtunnel.options.plugins.terminal`.
"""

from __future__ import annotations

import getopt
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    formatEvent,
    textFileLogObserver,
)
from twisted.python.failure import Failure

from rtunnel.options.base import BaseOptions, take_all_output
from rtunnel.options.plugins.log_file import ignore_sigusr1, open_log_file
from rtunnel.options.plugins.log_level import LogThreshold
from rtunnel.options.plugins.terminal import terminal_line
from rtunnel.upkeep.accepting import AcceptErrorObserver
from rtunnel.upkeep.log_limiter import LogBudget

# Fields that Twisted's legacy logging adds to every event. The JSON line has them under other names.
_LEGACY_FIELDS = frozenset(
    ("message", "time", "system", "isError", "format", "failure", "why", "logLevel", "printed", "eventSource")
)

#: About how long a line of text is without its message and its source.
TIME_AND_LEVEL = 36


@dataclass(frozen=True, slots=True)
class TwistdLogging:
    """The logging options of ``twistd``.

    :ivar foreground: whether ``-n`` or ``-b`` was given.
    :ivar logfile: a path, ``-``, or empty if it was not given.
    :ivar syslog: the prefix for syslog; None: the log does not go to syslog.
    :ivar logger: whether a logger was named, which overrides all of these.
    :ivar terminal: whether this is not ``twistd`` but a command of ``rtunnel``, whose lines are for a person.
    """

    foreground: bool = True
    logfile: str = ""
    syslog: str | None = None
    logger: bool = False
    terminal: bool = False

    @property
    def to_stdout(self) -> bool:
        """Return whether the log goes to standard output."""
        if self.logger or self.syslog is not None:
            return False
        return self.foreground and self.logfile in ("", "-")


def twistd_logging(options: Mapping[str, Any] | None, argv: list[str]) -> TwistdLogging:
    """Return the logging options of ``twistd``.

    :param options: the parsed options of ``twistd`` or ``rtunnel``, the parent of a plugin's options; None in a
        ``.tac`` file.
    :param argv: the process's arguments, parsed here if there are no options.
    """
    if isinstance(options, BaseOptions):
        return TwistdLogging(terminal=True)
    if options is None:
        options = _from_arguments(argv)
    return TwistdLogging(
        foreground=bool(options.get("nodaemon", False) or options.get("debug", False)),
        logfile=options.get("logfile") or "",
        syslog=(options.get("prefix") or "twisted") if options.get("syslog") else None,
        logger=bool(options.get("logger")),
    )


def _from_arguments(argv: list[str]) -> dict[str, Any]:
    from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]

    # Only its tables are used: parsing with it would install a reactor again.
    table: Any = ServerOptions()
    try:
        found, _ = getopt.getopt(argv[1:], table.shortOpt, table.longOpt)
    except getopt.GetoptError:
        # Not twistd, but some other program that loaded the plugin.
        return {"nodaemon": True}
    return {table.synonyms.get(flag.lstrip("-"), flag.lstrip("-")): value or True for flag, value in found}


def observer_for(log_format: str, threshold: LogThreshold, twistd: TwistdLogging) -> ILogObserver:
    """Return the log observer for an application; open the log file, if there is one.

    :param log_format: ``text`` or ``json``.
    :param threshold: the lowest level.
    :raises SystemExit: the file cannot be opened; the message says why.
    """
    target: ILogObserver
    if twistd.syslog is not None:
        from twisted.python.syslog import SyslogObserver

        syslog: Any = SyslogObserver
        target = LegacyLogObserverWrapper(syslog(twistd.syslog).emit)
    else:
        if twistd.to_stdout:
            take_all_output()
        file: Any = sys.stdout if twistd.to_stdout else _log_file(twistd)
        if log_format == "json":
            target = FileLogObserver(file, json_line)
        else:
            target = FileLogObserver(file, terminal_line(file)) if twistd.terminal else textFileLogObserver(file)
    if twistd.syslog is not None or twistd.to_stdout:
        ignore_sigusr1()
    measure = _json_length if log_format == "json" else _text_length
    target = LogBudget(target, measure, time.monotonic)
    observer: ILogObserver = AcceptErrorObserver(FilteringLogObserver(target, [threshold.passes]))
    return observer


def _json_length(event: LogEvent) -> int:
    return len(json_line(event) or "")


def _text_length(event: LogEvent) -> int:
    failure = event.get("log_failure")
    message = formatEvent(event) + (_traceback(failure) if failure is not None else "")
    return TIME_AND_LEVEL + len(event.get("log_namespace") or "") + len(message.encode("utf-8", "replace"))


def _log_file(twistd: TwistdLogging) -> Any:
    if twistd.logfile == "-":
        sys.exit("Daemons cannot log to stdout, exiting!")
    return open_log_file(twistd.logfile or "twistd.log")


def json_line(event: LogEvent) -> str | None:
    """Return an event as one line of JSON, or None if it has neither a message nor a failure.

    The keys are ``time`` (ISO 8601, UTC, milliseconds), ``level``, ``system``, ``message``, those fields of the event
    that are plain values, and ``traceback`` if there is a failure.
    """
    message = formatEvent(event)
    failure = event.get("log_failure")
    if not message and failure is None:
        return None
    level = event.get("log_level")
    line: dict[str, object] = {
        "time": _iso(event.get("log_time")),
        "level": level.name if level is not None else "info",
        "system": event.get("log_system") or event.get("log_namespace") or "-",
        "message": message or _summary(failure),
    }
    for key, value in event.items():
        if not key.startswith("log_") and key not in line and key not in _LEGACY_FIELDS and _is_plain(value):
            line[key] = value
    if failure is not None:
        line["traceback"] = _traceback(failure)
    return json.dumps(line, default=str) + "\n"


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _iso(when: object) -> str:
    if not isinstance(when, int | float):
        return "-"
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _summary(failure: object) -> str:
    return failure.getErrorMessage() if isinstance(failure, Failure) else str(failure)


def _traceback(failure: object) -> str:
    return failure.getTraceback() if isinstance(failure, Failure) else str(failure)
