"""``rtunnel disconnect``: ends the connections of one peer."""

from __future__ import annotations

import sys

from twisted.python import usage

from rtunnel.control.ask import tell
from rtunnel.options.change.process import pick, process_name
from rtunnel.options.verbs import Verb

#: Who has peers that somebody else may have to be rid of.
SERVICES = ("rtunnel-server", "rtc-signal", "rtc-host")


class Options(Verb):
    """Disconnect a client of rtunnel-server, with its visitors, a client of rtc-host, or whoever is registered with
    rtc-signal. PEER is the name, ID or address that 'rtunnel status' shows. It may connect again at once: to keep it
    out, revoke its certificate ('rtunnel pki revoke'), or take it or its token out of the settings."""

    synopsis = "[options] PEER [NAME|PID]"
    examples = ("rtunnel disconnect laptop", "rtunnel disconnect 192.0.2.7:50112 rtunnel-server")

    def __init__(self) -> None:
        super().__init__()
        self.peer = self.name = ""

    def parseArgs(self, *arguments: str) -> None:
        """Take the peer and the name of a process.

        :raises usage.UsageError: the peer is missing, or there are others.
        """
        if not arguments or not arguments[0]:
            raise usage.UsageError("name who is to be disconnected, as 'rtunnel status' shows it")
        if arguments[2:]:
            raise usage.UsageError(f"disconnect one at a time; remove '{arguments[2]}'")
        self.peer = arguments[0]
        self.name = process_name(*arguments[1:])

    def run(self) -> None:
        count = tell(pick(self.name, SERVICES), "disconnect", {"peer": self.peer})["disconnected"]
        sys.stdout.write(f"disconnected: {count} connection{'' if count == 1 else 's'} of {self.peer}\n")
