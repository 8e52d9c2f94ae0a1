"""``rtunnel drain``: a running process takes no new visitors, and ends when it has none."""

from __future__ import annotations

import sys

from rtunnel.control.ask import tell
from rtunnel.options.change.process import ProcessVerb, pick


class Options(ProcessVerb):
    """Let a running process take no new visitors, and end when those that are there have finished: exit code 0. If it
    has a status port, it first tells load balancers there, by /readyz, and goes on as ever for ten seconds; then its
    ports close. SIGTERM means that visitors have only the time of the setting drain from then on, and a second one ends
    them at once. Without NAME, the only process that runs is meant."""

    examples = ("rtunnel drain rtunnel-server", "rtunnel drain --within 1h 4711")

    def opt_within(self, value: str) -> None:
        """Most time that visitors have to finish: seconds, or 10m or 2h. As much as they need if not given."""
        self.ask_for_seconds("within", value)

    def run(self) -> None:
        done = tell(pick(self.name), "drain", self.asked)
        visitors = done["visitors"]
        now = "" if visitors is None else f"; visitors now: {visitors}"
        text = (
            "it drains already" if done["had_begun"] else "draining; the process ends when its visitors have finished"
        )
        sys.stdout.write(f"{text}{now}\n")
