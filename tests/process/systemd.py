"""As much of systemd as a service sees: the socket where it says how it is, and what is kept for its next process."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.patience import PATIENCE
from tests.process.harness import Process, Twistds, twistd_program

START = """
import fcntl, os, sys
given = [int(each) for each in sys.argv[1].split(",") if each]
kept = [fcntl.fcntl(each, fcntl.F_DUPFD, 500) for each in given]
for each in given:
    os.close(each)
for number, each in enumerate(kept):
    os.dup2(each, 3 + number)
    os.close(each)
if kept:
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What systemd does before it runs a service: what it keeps for it are descriptors 3, 4, ... of this process."""


class Systemd:
    """Runs one service.

    :ivar kept: descriptors, and the name of each.
    :ivar said: what the service has said, without what was about descriptors.
    """

    def __init__(self, twistd: Twistds, directory: Path) -> None:
        self._twistd = twistd
        self._path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        self._socket.settimeout(PATIENCE)
        self.kept: list[tuple[int, str]] = []
        self.said: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | TracebackType | BaseException | None) -> None:
        self._socket.close()
        self.drop()

    def start(self, *arguments: str) -> Process:
        """Start the service ``twistd ARGUMENTS``, and wait until it says that it is ready."""
        process = self.run(*arguments)
        self.hear("READY=1")
        return process

    def run(self, *arguments: str) -> Process:
        """Start the service ``twistd ARGUMENTS``."""
        env = {"NOTIFY_SOCKET": self._path}
        if self.kept:
            env |= {"LISTEN_FDS": str(len(self.kept)), "LISTEN_FDNAMES": ":".join(name for _, name in self.kept)}
        numbers = [number for number, _ in self.kept]
        argv = [sys.executable, "-c", START, ",".join(map(str, numbers)), twistd_program(), "-n", "--pidfile="]
        return self._twistd.program(*argv, *arguments, env=env, pass_fds=numbers)

    def hear(self, what: str) -> str:
        """Wait until the service says something that begins so, and return it."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 253)
            lines = data.decode().splitlines()
            fields = dict(line.split("=", 1) for line in lines)
            if "FDSTORE" in fields:
                assert fields["FDPOLL"] == "0"
                self.kept += [(each, fields["FDNAME"]) for each in descriptors]
            elif "BARRIER" in fields:
                os.close(*descriptors)
            else:
                assert not descriptors
                self.said += lines
            if "FDSTOREREMOVE" in fields:
                self.drop(fields["FDNAME"])
            if lines[0].startswith(what):
                return data.decode()

    def drop(self, name: str | None = None) -> None:
        """Keep nothing of this name any more."""
        for each in [each for each in self.kept if name in (None, each[1])]:
            with suppress(OSError):
                os.close(each[0])
            self.kept.remove(each)
