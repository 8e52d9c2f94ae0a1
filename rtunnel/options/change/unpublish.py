"""``rtunnel unpublish``: fewer tunnels of a running client."""

from __future__ import annotations

import sys

from twisted.python import usage

from rtunnel.control.ask import tell
from rtunnel.options.change.process import pick, process_name
from rtunnel.options.change.publish import SERVICES, TIMEOUT
from rtunnel.options.verbs import Verb


class Options(Verb):
    """Take tunnels from a client that is running. The server frees the port or name at once; visitors who are there
    finish, and new ones are refused. A tunnel that the settings have is back when the client starts again; one that was
    added by 'rtunnel publish' is not, whether it was kept or not."""

    synopsis = "[options] TUNNEL..."
    examples = ("rtunnel unpublish tcp:8080", "rtunnel unpublish http:app.example.org udp:53")

    def __init__(self) -> None:
        super().__init__()
        self.process = ""
        self.tunnels: list[str] = []

    def opt_process(self, value: str) -> None:
        """The process id of the client, if several are running."""
        self.process = process_name(value)

    def parseArgs(self, *arguments: str) -> None:
        """Take the tunnels.

        :raises usage.UsageError: there are none.
        """
        if not arguments:
            raise usage.UsageError("name a tunnel, as 'rtunnel status' shows it, or such as tcp:8080")
        self.tunnels = list(arguments)

    def run(self) -> None:
        done = tell(pick(self.process, SERVICES), "unpublish", {"tunnels": self.tunnels}, TIMEOUT)
        for each in done["tunnels"]:
            back = "" if each["added"] else "; the settings have it, so it is back when the client starts again"
            sys.stdout.write(f"{each['tunnel']} is published no longer{back}\n")
