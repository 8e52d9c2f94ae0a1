"""Log lines for a person at a terminal, which the commands of ``rtunnel`` write.

A line has the time and the message, and the level if it is not ``info``. On a terminal the level has a colour (not with
``NO_COLOR``, see https://no-color.org), and long lines are wrapped at words to the width of the terminal, below the
message. In a file or pipe each event is one line, without colours.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Callable
from datetime import datetime
from typing import TextIO

from twisted.logger import LogEvent, LogLevel, eventAsText

_WORDS = {LogLevel.warn: "warning: ", LogLevel.error: "error: ", LogLevel.critical: "error: "}
#: SGR parameters of ECMA-48: faint, yellow, red.
_COLOURS = {LogLevel.debug: "2", LogLevel.warn: "33", LogLevel.error: "31", LogLevel.critical: "31"}
_INDENT = " " * len("12:34:56 ")


def terminal_line(file: TextIO) -> Callable[[LogEvent], str | None]:
    """Return what formats an event for *file*."""
    on_terminal = file.isatty()
    in_colour = on_terminal and not os.environ.get("NO_COLOR")

    def line(event: LogEvent) -> str | None:
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        if not text:
            return None
        level = event.get("log_level")
        # A traceback, which may follow, stays as it is.
        first, *others = text.splitlines()
        first = f"{_time(event)} {_WORDS.get(level, '')}{first}"
        if on_terminal:
            width = shutil.get_terminal_size().columns
            first = textwrap.fill(
                first, width, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
            )
        text = "\n".join((first, *others))
        if in_colour and level in _COLOURS:
            text = f"\x1b[{_COLOURS[level]}m{text}\x1b[0m"
        return text + "\n"

    return line


def _time(event: LogEvent) -> str:
    # The time zone is that of whoever sits at the terminal.
    return datetime.fromtimestamp(event["log_time"]).astimezone().strftime("%H:%M:%S")
