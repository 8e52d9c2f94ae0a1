"""Data channels of other WebRTC stacks without a tunnel around them, as yardsticks for ours.

Each end is a process that runs ``bare_channel.py`` or ``bare_channel.js``. A channel has neither a tunnel's two more
sockets, nor its half-close and back-pressure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.costs import cpu_seconds
from benchmarks.parts import Failed, find

HERE = Path(__file__).parent
NODE = HERE.parent / "tests/peers/node/node_modules/node-datachannel"
#: How many seconds two ends have to find each other.
START = 20.0


@dataclass(frozen=True)
class Stack:
    """A WebRTC stack.

    :ivar command: begins the command of an end, whose role follows in *role*'s place.
    :ivar needs: a file without which it is left out.
    """

    title: str
    command: Callable[[str], list[str]]
    needs: Path | None = None


def _python(module: str) -> Callable[[str], list[str]]:
    return lambda role: [sys.executable, "-P", str(HERE / "bare_channel.py"), role, module]


AIORTC = Stack("aiortc", _python("aiortc"))
LIBWEBRTC = Stack("libwebrtc", _python("webrtc.aiortc"))
LIBDATACHANNEL = Stack("libdatachannel", lambda role: [find("node"), str(HERE / "bare_channel.js"), role], NODE)
STACKS = (AIORTC, LIBWEBRTC, LIBDATACHANNEL)


@dataclass(frozen=True)
class Flow:
    """What passed through a channel.

    :ivar megabits: the rate at the receiver, in Mbit/s.
    :ivar cpu: seconds of CPU time for each gigabyte, of both ends together.
    """

    megabits: float
    cpu: float


class _Ended(Failed):
    """An end has ended."""


def _start(argv: Sequence[str], log: Path) -> subprocess.Popen[str]:
    with log.open("w") as errors:
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)


def _say(end: subprocess.Popen[str], line: str) -> None:
    assert end.stdin is not None
    end.stdin.write(line)
    end.stdin.flush()


def _hear(end: subprocess.Popen[str]) -> str:
    assert end.stdout is not None
    line = end.stdout.readline()
    if not line:
        raise _Ended("an end has ended")
    return line


@contextmanager
def _ends(
    stack: Stack, directory: Path, at_sender: Callable[[], AbstractContextManager[None]]
) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """Run both ends, which know each other's descriptions. Yield the sender and the receiver."""
    with ExitStack() as processes:
        made = []
        for role, place in (("send", at_sender), ("receive", nullcontext)):
            with place():
                end = processes.enter_context(_start(stack.command(role), directory / f"{stack.title}-{role}.log"))
            processes.callback(end.kill)
            made.append(end)
        sender, receiver = made
        _say(sender, _hear(receiver))
        _say(receiver, _hear(sender))
        yield sender, receiver


def measure(
    stack: Stack,
    directory: Path,
    seconds: float,
    at_sender: Callable[[], AbstractContextManager[None]] = nullcontext,
    skip: float = 0.5,
) -> Flow:
    """Fill a channel for that many *seconds*.

    :param directory: for logs.
    :param at_sender: where the sender is started.
    :param skip: how many seconds pass between the first bytes and the measurement.
    :raises Failed: the stack is not installed, or its ends did not find each other.
    """
    if stack.needs is not None and not stack.needs.exists():
        raise Failed(f"{stack.title} is not installed")
    try:
        with _ends(stack, directory, at_sender) as ends:
            receiver = ends[1]

            def count() -> tuple[int, float]:
                _say(receiver, "\n")
                received, when = json.loads(_hear(receiver))
                return received, when

            deadline = time.monotonic() + START
            while not count()[0]:
                if time.monotonic() > deadline:
                    raise Failed(f"nothing passed between two ends of {stack.title}")
                time.sleep(0.05)
            time.sleep(skip)
            pids = [end.pid for end in ends]
            cpu, (before, began) = cpu_seconds(pids), count()
            time.sleep(seconds)
            spent, (after, ended) = cpu_seconds(pids) - cpu, count()
    except (_Ended, BrokenPipeError):
        logs = "".join((directory / f"{stack.title}-{role}.log").read_text() for role in ("send", "receive"))
        raise Failed(f"an end of {stack.title} has ended: {logs.strip()[-900:]}") from None
    return Flow((after - before) * 8e-6 / (ended - began), spent / max(1, after - before) * 1e9)
