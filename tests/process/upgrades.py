"""What tests of upgrades need: processes that take the places of others, and versions that behave otherwise."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

from tests.patience import PATIENCE
from tests.process.harness import Process
from tests.process.test_reload import rtunnel


def ended(process: Process) -> int:
    """Wait for the end of a process whose successor writes to the same pipe, and return the exit code."""
    return process._process.wait(PATIENCE)


class Successors:
    """The processes that have taken the places of others, which end with the test."""

    def __init__(self) -> None:
        self._pids: list[int] = []

    def upgrade(self, pid: int, *options: str) -> int:
        """Upgrade a process; return the id of its successor."""
        code, out, err = rtunnel("upgrade", *options, str(pid))
        assert (code, err) == (0, "")
        match = re.fullmatch(r"process (\d+) \(release \S+\) has taken over; the old one ends .*\n", out)
        assert match is not None, out
        self._pids.append(int(match[1]))
        return self._pids[-1]

    def add(self, pid: int) -> None:
        self._pids.append(pid)

    def end(self) -> None:
        for pid in self._pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


class Newer:
    """A place for what runs first in processes that start from now on."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "sitecustomize.py"
        directory.mkdir()

    def does(self, code: str) -> None:
        self._file.write_text(code)

    def is_as_ever(self) -> None:
        self._file.unlink()
