"""``rtunnel status``: what the running processes do now."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from twisted.python import usage

from rtunnel.control.ask import NoAnswer, ask
from rtunnel.control.sockets import control_directory, running
from rtunnel.errors import RtunnelError
from rtunnel.options.verbs import Verb

#: Seconds between two looks with --watch.
EVERY = 1.0


class NotWell(RtunnelError):
    """Nothing is running, or something is wrong. The message says what."""


class Options(Verb):
    """Show what the rtunnel processes of this machine do: who is connected, what is published where, what is wrong.
    The exit code is 0 if all is well, and 1 if something is wrong or nothing runs. Root sees all processes, others
    their own."""

    synopsis = "[options] [NAME]"
    examples = (
        "rtunnel status",
        "rtunnel status rtunnel-client --watch",
        "rtunnel status --json | jq '.[].problems'",
    )

    def __init__(self) -> None:
        super().__init__()
        self.as_json = self.watches = False
        self.name = ""

    def opt_json(self) -> None:
        """Print JSON: a list with an object for each process, see docs/control.rst."""
        self.as_json = True

    def opt_watch(self) -> None:
        """Show it again every second, until Ctrl-C."""
        self.watches = True

    def parseArgs(self, *arguments: str) -> None:
        """Take the name of a service.

        :raises usage.UsageError: there are several.
        """
        self.name, *others = arguments or ("",)
        if others:
            raise usage.UsageError(f"name one service, or none to see all; remove '{others[0]}'")

    def run(self) -> None:
        if self.watches and self.as_json:
            while True:
                sys.stdout.write(json.dumps(self._look()) + "\n")
                sys.stdout.flush()
                time.sleep(EVERY)
        if self.watches:
            from rtunnel.options.status.tables import watch

            watch(self._look, EVERY)
            return
        found = self._look()
        if self.as_json:
            sys.stdout.write(json.dumps(found, indent=2) + "\n")
        elif found:
            from rtunnel.options.status.tables import show

            show(found)
        if not found:
            raise NotWell(self._nothing())
        if problems := [problem for each in found for problem in each["problems"]]:
            more = f", and {len(problems) - 1} more problems" if len(problems) > 1 else ""
            raise NotWell(f"{problems[0]}{more}")

    def _look(self) -> list[dict[str, Any]]:
        found = []
        for path, service, pid in running(os.environ):
            if self.name in ("", service, str(pid)):
                try:
                    found.append(ask(path))
                except NoAnswer as error:
                    found.append({"service": service, "pid": pid, "ok": False, "problems": [str(error)]})
        return found

    def _nothing(self) -> str:
        what = f"no process '{self.name}'" if self.name else "no rtunnel process"
        where = control_directory(os.environ)
        return f"{what} with a control socket is running for this user (in {where}); root sees those of all users"
