"""``rtunnel host invite``: a code with which somebody else becomes a client of the running host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.python import usage

from rtunnel.control.ask import NotDone, tell
from rtunnel.options.change.process import pick, process_name
from rtunnel.options.verbs import Verb

SERVICES = ("rtc-host",)
#: Seconds that the host has to open an invitation: as many as it gives its signaling server, and some more.
TIMEOUT = 20.0
#: Seconds that it has to say whether something has changed: as many as it waits for that, and some more.
LOOK_TIMEOUT = 30.0

_ENDS = {
    "failed": "the code was wrong, or whoever tried it did not come; nobody was let in. Make a new one",
    "expired": "nobody has used the code in time; it is good for nothing any more. Make a new one",
    "withdrawn": "the invitation is withdrawn; the code is good for nothing any more",
}
_NOT_ADMITTED = (
    "the code was right, but the host cannot write down the other person; its log says why. Nobody was let in; mend "
    "that, and make a new one"
)


class Options(Verb):
    """Let somebody else become a client of the host that runs here. It prints a code, which you read or send to that
    person, who types what is printed below it. The code is good for ten minutes and one try: whoever tries a wrong one
    spends it. From then on the two machines know each other, and need no code any more. The command waits until the
    code is used; Ctrl-C withdraws it. A host that has invited somebody is closed to all whom it does not know."""

    synopsis = "[--service NAME]... [options] [PID]"
    examples = ("rtunnel host invite --service web", "rtunnel host invite --service web --service dns --for Anna")

    def __init__(self) -> None:
        super().__init__()
        self.services: list[str] = []
        self.person = ""
        self.process = ""

    def opt_service(self, value: str) -> None:
        """A service that the other person may use; may be repeated. Without it, all services of the host."""
        if not value:
            raise usage.UsageError("--service: is empty; write the name of a service, or leave it out for all")
        self.services.append(value)

    def opt_for(self, value: str) -> None:
        """What the host shall call the other person, in its log and in 'rtunnel status'."""
        self.person = value

    def parseArgs(self, *arguments: str) -> None:
        """Take the number of a process.

        :raises usage.UsageError: see :func:`process_name`.
        """
        self.process = process_name(*arguments)

    def run(self) -> None:
        path = pick(self.process, SERVICES)
        asked: dict[str, Any] = {"name": self.person}
        if self.services:
            asked["services"] = self.services
        found = tell(path, "invite", asked, TIMEOUT)
        try:
            try:
                self._tell(found)
            except OSError:
                # Nobody has seen the code, and whoever finds half of it shall have nothing.
                tell(path, "withdraw", {"number": found["number"]})
                raise
            self._wait(path, found)
        except KeyboardInterrupt:
            self._withdraw(path, found["number"])

    def _tell(self, found: dict[str, Any]) -> None:
        lines = [
            f"The code is {found['code']}, for {found['terms']} of host '{found['host']}'.",
            "The other person types, within 10 minutes:",
            "",
            f"    {found['command']}",
            "",
        ]
        if found["was_open"]:
            lines.insert(0, "This host was open to everybody. From now on only those may connect whom it knows.")
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    def _wait(self, path: Path, found: dict[str, Any]) -> None:
        """Wait until the invitation is over.

        :raises NotDone: nobody has used it.
        """
        stage = ""
        while stage not in ("used", *_ENDS):
            if stage != found["stage"]:
                stage = found["stage"]
                self._progress(stage, found)
            if stage in ("waiting", "answered"):
                found = tell(path, "invitation", {"number": found["number"], "stage": stage}, LOOK_TIMEOUT)
                if found["stage"] == stage:
                    self._progress(stage, found, is_again=True)

    def _progress(self, stage: str, found: dict[str, Any], *, is_again: bool = False) -> None:
        if stage == "used" and not found["client"]:
            raise NotDone(_NOT_ADMITTED)
        if stage == "used":
            sys.stdout.write(f"\nThe code was right: {found['client']} is connected, and needs no code any more.\n")
        elif stage in _ENDS:
            sys.stdout.write("\n")
            sys.stdout.flush()
            raise NotDone(_ENDS[stage])
        elif sys.stdout.isatty():
            what = "somebody tries the code" if stage == "answered" else "waiting for the other person"
            sys.stdout.write(f"\r{what}; {found['seconds_left'] / 60:.0f} min left; Ctrl-C withdraws it ")
        elif not is_again:
            what = "Somebody tries the code." if stage == "answered" else "Waiting for the other person."
            sys.stdout.write(f"{what}\n")
        sys.stdout.flush()

    def _withdraw(self, path: Path, number: int) -> None:
        sys.stdout.write("\n")
        sys.stdout.flush()
        tell(path, "withdraw", {"number": number})
        raise NotDone(_ENDS["withdrawn"])
