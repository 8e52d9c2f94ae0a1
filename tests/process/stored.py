"""A tunnel of which systemd runs one end, and starts it again under visitors."""

from __future__ import annotations

import json
import os
import re
import stat
from functools import partial
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistds, poll
from tests.process.services import LOOPBACK, Visitor
from tests.process.systemd import Systemd
from tests.process.test_reload import rtunnel


class Restarted:
    """A server and a client, all of whose visitors are on data connections.

    :param end: which of them systemd runs: ``server`` or ``client``.
    :param pki: where the files of TLS are; None: without.
    :param more: further options, of both ends by their names.
    :ivar public: the tunnel's port.
    """

    def __init__(
        self, end: str, systemd: Systemd, twistd: Twistds, local: str, pki: Path | None = None, **more: list[str]
    ) -> None:
        self.end, self._systemd, self._twistd = end, systemd, twistd
        self.control, self.public = free_port(), free_port()
        tls = [] if pki is None else ["--tls"]
        self.env = {} if pki is None else {"RTUNNEL_PKI_DIR": str(pki)}
        both = ["--data-plane=direct", *tls]
        self.options = {
            "server": [
                f"--control-listen={LOOPBACK}:{self.control}",
                f"--public-interface={LOOPBACK}",
                *both,
                *more.get("server", []),
            ],
            "client": [
                f"--server={LOOPBACK}:{self.control}",
                f"--local={local}",
                f"--remote-port={self.public}",
                *both,
                *more.get("client", []),
            ],
        }
        self.processes: dict[str, Process] = {}
        for each in ("server", "client"):
            self.start(each)
        self.published()

    def start(self, end: str, **env: str) -> None:
        """Start an end; systemd's waits until it is ready."""
        arguments = (f"rtunnel-{end}", *self.options[end])
        if end != self.end:
            self.processes[end] = self._twistd(*arguments, env={**self.env, **env})
        else:
            self.processes[end] = self._systemd.run(*arguments, **self.env, **env)
            self._systemd.hear("READY=1")

    @property
    def server(self) -> Process:
        return self.processes["server"]

    @property
    def client(self) -> Process:
        return self.processes["client"]

    @property
    def restarted(self) -> Process:
        """The process that systemd runs."""
        return self.processes[self.end]

    def published(self) -> None:
        self.client.wait_for(rf"{re.escape(LOOPBACK)}:{self.public} is published; ")

    def stop(self) -> Process:
        """Stop systemd's process, which leaves something. Return it."""
        before = self.restarted
        assert before.terminate() == 0
        self._systemd.hear("FDSTORE=1")
        self._systemd.settle()
        assert "Traceback" not in before.output
        return before

    def restart(self, **env: str) -> Process:
        """Do what ``systemctl restart`` does. Return the process that has ended."""
        before = self.stop()
        self.start(self.end, **env)
        return before

    def has_visitors(self, count: int, end: str = "") -> None:
        """Wait until an end, by default both, has so many visitors."""
        for each in [end] if end else list(self.processes):
            status = partial(rtunnel, "status", str(self.processes[each].pid))
            poll(lambda status=status: f"visitors {count}" in status()[1], PATIENCE, f"visitors at the {each}")  # type: ignore[misc]

    def visit(self, line: bytes = b"") -> Visitor:
        return Visitor(self.public, line)

    def clean(self) -> None:
        """Check that no process has logged what it must not."""
        for process in self.processes.values():
            assert "Traceback" not in process.output
            assert "cut off" not in process.output
            assert "cannot be used" not in process.output


def files_of(systemd: Systemd, name: str) -> list[int]:
    """The files in memory that are kept under a name."""
    return [each for each, of in systemd.kept if of == name and stat.S_ISREG(os.fstat(each).st_mode)]


def state_in(number: int) -> dict[str, Any]:
    """What is in one."""
    found: dict[str, Any] = json.loads(os.pread(number, os.fstat(number).st_size, 0))
    return found


def write(number: int, content: bytes) -> None:
    """Let something else be in one."""
    os.truncate(number, 0)
    os.pwrite(number, content, 0)
