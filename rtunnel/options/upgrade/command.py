"""``rtunnel upgrade``: the installed version takes the place of a running process."""

from __future__ import annotations

import sys

from rtunnel.control.ask import tell
from rtunnel.options.change.process import ProcessVerb, pick

#: Seconds that both processes have together.
PATIENCE = 120.0


class Options(ProcessVerb):
    """Let the installed version take the place of a running process, and cut nobody. A new process starts with the same
    arguments, environment and directory, and gets the listening sockets; the old one lets its visitors finish, and ends
    then. If nothing comes of it, the old one goes on as ever, and the exit code is 1. SIGUSR2 does the same, with the
    answer in the log. For rtunnel-server and rtunnel-client; without NAME, the only process that runs is meant."""

    examples = ("rtunnel upgrade rtunnel-server", "rtunnel upgrade --within 12h 4711")

    def opt_within(self, value: str) -> None:
        """Most time that visitors of the old process have: seconds, or 10m or 2h. As much as they need if not given."""
        self.ask_for_seconds("within", value)

    def run(self) -> None:
        done = tell(pick(self.name), "upgrade", self.asked, PATIENCE)
        text = "process {pid} (release {release}) has taken over; the old one ends when its visitors have finished\n"
        sys.stdout.write(text.format(pid=done["pid"], release=done["release"]))
