"""As much of systemd as a service sees: the socket where it says how it is, and what is kept for its next process."""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.patience import PATIENCE
from tests.process.harness import Process, Twistds, twistd_program

SYNC, END = "SYNC", "END"
"""What the fake says to itself."""

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
    """Runs one service, and hears what it says at any time.

    :param most: how many descriptors are kept; others are closed.
    :ivar env: what the environment of each process has in addition.
    :ivar kept: descriptors, and the name of each.
    :ivar said: what the service has said, without what was about descriptors.
    """

    def __init__(self, twistd: Twistds, directory: Path, most: int = 4096) -> None:
        self._twistd = twistd
        self._path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        self.most = most
        self.env: dict[str, str] = {}
        self.kept: list[tuple[int, str]] = []
        self.said: list[str] = []
        self._messages: list[str] = []
        self._heard = 0
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._listen, name="systemd", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | TracebackType | BaseException | None) -> None:
        self._send(END)
        self._thread.join()
        self._socket.close()
        self.drop()

    def start(self, *arguments: str) -> Process:
        """Start the service ``twistd ARGUMENTS``, and wait until it says that it is ready."""
        process = self.run(*arguments)
        self.hear("READY=1")
        return process

    def run(self, *arguments: str, **more: str) -> Process:
        """Start the service ``twistd ARGUMENTS``, with *more* in its environment."""
        self.settle()
        env = {"NOTIFY_SOCKET": self._path, **self.env, **more}
        if self.kept:
            env |= {"LISTEN_FDS": str(len(self.kept)), "LISTEN_FDNAMES": ":".join(name for _, name in self.kept)}
        numbers = [number for number, _ in self.kept]
        argv = [sys.executable, "-c", START, ",".join(map(str, numbers)), twistd_program(), "-n", "--pidfile="]
        return self._twistd.program(*argv, *arguments, env=env, pass_fds=numbers)

    def hear(self, what: str) -> str:
        """Wait until the service says something that begins so, behind what was waited for before, and return it."""
        with self._news:
            while True:
                assert self._news.wait_for(lambda: len(self._messages) > self._heard, PATIENCE), f"it never says {what}"
                message = self._messages[self._heard]
                self._heard += 1
                if message.startswith(what):
                    return message

    def settle(self) -> None:
        """Wait until all that the service has said was heard."""
        with self._news:
            count = self._messages.count(SYNC)
            self._send(SYNC)
            assert self._news.wait_for(lambda: self._messages.count(SYNC) > count, PATIENCE)

    def _send(self, message: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), self._path)

    def _listen(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 253)
            message = data.decode()
            if message == END:
                return
            with self._news:
                if message != SYNC:
                    self._take(message, descriptors)
                self._messages.append(message)
                self._news.notify_all()

    def _take(self, message: str, descriptors: list[int]) -> None:
        lines = message.splitlines()
        fields = dict(line.split("=", 1) for line in lines)
        if "FDSTORE" in fields:
            assert fields["FDPOLL"] == "0"
            for each in descriptors:
                if len(self.kept) < self.most:
                    self.kept.append((each, fields["FDNAME"]))
                else:
                    os.close(each)
        elif "BARRIER" in fields:
            os.close(*descriptors)
        elif "FDSTOREREMOVE" in fields:
            self.drop(fields["FDNAME"])
        else:
            assert not descriptors
            self.said += lines

    def drop(self, name: str | None = None) -> None:
        """Keep nothing of this name any more."""
        for each in [each for each in self.kept if name in (None, each[1])]:
            with suppress(OSError):
                os.close(each[0])
            self.kept.remove(each)
