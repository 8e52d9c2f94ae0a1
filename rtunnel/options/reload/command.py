"""``rtunnel reload``: a running process reads its settings again."""

from __future__ import annotations

import sys

from rtunnel.control.ask import tell
from rtunnel.errors import RtunnelError
from rtunnel.options.change.process import ProcessVerb, pick

#: Seconds that a process has. Listening ports close, and a reload that is under way comes first.
PATIENCE = 60.0


class NotAll(RtunnelError):
    """Something could not be changed. The message says what, and why."""


class Options(ProcessVerb):
    """Let a running process read its settings again: its file anew, its flags and environment as at its start. What
    has changed is applied, and named here; visitors and connections stay. If anything in the file is wrong, nothing
    changes. The exit code is 1 if something could not be changed. SIGHUP does the same, with the answer in the log.
    Without NAME, the only process that runs is meant."""

    synopsis = "[NAME|PID]"
    examples = ("rtunnel reload", "rtunnel reload rtunnel-server", "rtunnel reload 4711")

    def run(self) -> None:
        done = tell(pick(self.name), "reload", {}, PATIENCE)
        lines = list(done["changed"])
        if done["restart"]:
            lines.append(f"these settings changed and need a restart: {', '.join(done['restart'])}")
        if not lines and not done["failed"]:
            lines.append("nothing has changed")
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
        if done["failed"]:
            *others, last = done["failed"]
            sys.stdout.writelines(f"not changed: {line}\n" for line in others)
            raise NotAll(f"not changed: {last}")
