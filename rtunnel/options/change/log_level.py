"""``rtunnel log-level``: how much a running process logs."""

from __future__ import annotations

import sys

from twisted.python import usage

from rtunnel.control.ask import tell
from rtunnel.options.change.process import SERVICES, ProcessVerb, pick
from rtunnel.options.plugins.log_level import check_level


class Options(ProcessVerb):
    """Show or change the lowest level that a running process logs: debug, info, warn or error. It counts until the
    process ends; --log-level is for the next start. Without NAME, the only process that runs is meant."""

    synopsis = "[options] [LEVEL] [NAME|PID]"
    examples = (
        "rtunnel log-level",
        "rtunnel log-level debug",
        "rtunnel log-level info rtunnel-client",
        "rtunnel log-level debug 4711",
    )

    def __init__(self) -> None:
        super().__init__()
        self.level = ""

    def parseArgs(self, *arguments: str) -> None:
        """Take a level and the name of a process.

        :raises usage.UsageError: there are others.
        """
        names = list(arguments)
        if names and names[0] not in SERVICES and not names[0].isdecimal():
            self.level = names.pop(0)
            try:
                check_level(self.level)
            except ValueError as error:
                raise usage.UsageError(str(error)) from error
        super().parseArgs(*names)

    def run(self) -> None:
        done = tell(pick(self.name), "log-level", {"level": self.level})
        was = f" (was {done['before']})" if done["before"] != done["level"] else ""
        sys.stdout.write(f"log level: {done['level']}{was}\n")
