"""What every hostile test needs: an honest peer that goes on working, and a gauge of what an attack costs.

::

    tunnel = start_tunnel(echo)
    with Honest(tunnel.public) as honest, gauge(tunnel.server) as used:
        attack()
        honest.go_on()
    assert used.cpu_seconds < ...

A bound is on the work per byte, or per connection, of the attacker, and five times what was seen. It is not on how long
something took: the machine may be busy.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rtunnel.upkeep.log_limiter import PERIOD
from tests.patience import PATIENCE
from tests.process.harness import Process, poll

LOOPBACK = "127.0.0.1"


def limit_descriptors(process: Process, limit: int) -> None:
    """Let *process* have no more than *limit* descriptors from now on (Linux)."""
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))


def connect(port: int, source: str = LOOPBACK, *, data: bytes = b"", timeout: float = PATIENCE) -> socket.socket:
    """Connect to a port of this machine.

    :param source: the address from which to come. On Linux all of 127.0.0.0/8 are this machine's.
    :param data: what to say at once.
    """
    connection = socket.create_connection((LOOPBACK, port), timeout=timeout, source_address=(source, 0))
    try:
        connection.sendall(data)
    except BaseException:
        connection.close()
        raise
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Return whether the other end has closed or reset a connection that brings no bytes."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class Honest:
    """Somebody who uses an echoing service all the time, in a thread: one connection that stays, and new ones.

    At the end of the ``with`` block the one that stays is still there, and no new one has failed, or the test fails.

    :param port: where the service can be reached.
    :param source: the address from which to come.
    :param comes_anew: make new connections too.
    :ivar answers: how often the connection that stays has brought back what was sent.
    :ivar visits: how many new connections have done so.
    """

    def __init__(self, port: int, source: str = "127.0.0.2", *, comes_anew: bool = True) -> None:
        self._port = port
        self._source = source
        self._comes_anew = comes_anew
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._turn = threading.Lock()
        self.answers = 0
        self.visits = 0
        self._stays = connect(port, source)
        self._thread = threading.Thread(target=self._run, name="honest", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                with self._turn:
                    self._ask(self._stays)
                    self.answers += 1
                    if self._comes_anew:
                        with connect(self._port, self._source) as new:
                            self._ask(new)
                        self.visits += 1
                self._over.wait(0.01)
        except BaseException as error:
            self._error = error

    def _ask(self, connection: socket.socket) -> None:
        question = f"question {self.answers}".encode()
        connection.sendall(question)
        answer = b""
        while len(answer) < len(question):
            data = connection.recv(1024)
            if not data:
                raise AssertionError(f"the connection ended after {self.answers} answers, {self.visits} visits")
            answer += data
        assert answer == question

    @contextmanager
    def rests(self) -> Iterator[None]:
        """Keep the connection and ask nothing, so that what an attacker costs can be measured alone."""
        with self._turn:
            yield

    def go_on(self, times: int = 3) -> None:
        """Wait until it was served so often again, from now on."""
        answers, visits = self.answers + times, self.visits + times * self._comes_anew
        poll(
            lambda: self._error or (self.answers >= answers and self.visits >= visits),
            PATIENCE,
            f"answer {answers} and visit {visits} of an honest peer, who had {self.answers} and {self.visits}",
        )
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise AssertionError(f"an honest peer was not served: {self._error!r}") from self._error

    def __enter__(self) -> Honest:
        self.go_on(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(PATIENCE)
        self._stays.close()
        if kind is None:
            assert not self._thread.is_alive(), "an honest peer waits for ever"
            self._check()
            assert self.answers
            assert self.visits or not self._comes_anew


class Used:
    """What a process has used since the gauge was put on; after the ``with`` block, up to its end.

    :ivar most_descriptors: how many it had open at most, at the looks that :meth:`look` took.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._since = time.monotonic()
        self._cpu = process.cpu_seconds()
        self._log = len(process.output.encode())
        self._rss = process.rss_bytes()
        self._descriptors = process.descriptors()
        self._end: tuple[float, int, int, int] | None = None
        self.most_descriptors = self._descriptors

    def look(self) -> None:
        """Take note of how many descriptors it has now."""
        self.most_descriptors = max(self.most_descriptors, self._process.descriptors())

    def stop(self) -> None:
        """Let the figures be those of now."""
        self.look()
        self._end = self._now()
        print(
            f"{self._process.argv[3:4] or self._process.argv[:1]}: {self.cpu_seconds:.2f} s, {self.log_bytes} bytes of "
            f"log, {self.rss_bytes / 1024:.0f} KiB, {self.descriptors:+} descriptors, {self.most_descriptors} at most"
        )

    def _now(self) -> tuple[float, int, int, int]:
        process = self._process
        log = len(process.output.encode()) - self._log
        # Each period may have as many lines as the first. On a busy machine there are more of them.
        log //= 1 + int((time.monotonic() - self._since) / PERIOD)
        return process.cpu_seconds(), log, process.rss_bytes(), process.descriptors()

    @property
    def cpu_seconds(self) -> float:
        """Processor time."""
        return (self._end or self._now())[0] - self._cpu

    @property
    def log_bytes(self) -> int:
        """Bytes of log, for each period of :class:`~rtunnel.upkeep.log_limiter.LogLimiter` that has begun."""
        return (self._end or self._now())[1]

    @property
    def rss_bytes(self) -> int:
        """By how many bytes its resident memory is larger."""
        return (self._end or self._now())[2] - self._rss

    @property
    def descriptors(self) -> int:
        """By how many it has more descriptors."""
        return (self._end or self._now())[3] - self._descriptors


@contextlib.contextmanager
def gauge(process: Process) -> Iterator[Used]:
    """Measure what *process* uses in the ``with`` block; nothing in its log may be a traceback."""
    used = Used(process)
    yield used
    used.stop()
    assert "Traceback" not in process.output, process
