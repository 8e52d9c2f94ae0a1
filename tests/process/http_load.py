"""Visitors of a web page who come again and again."""

from __future__ import annotations

import http.client
import threading
from collections import Counter

from tests.patience import PATIENCE
from tests.process.harness import poll

LOOPBACK = "127.0.0.1"
PAUSE = 0.02
"""Seconds, for visitors who are there for long: without a pause all cores are busy with nothing else."""


class Load:
    """Visitors who ask for a page again and again, all at once, until the ``with`` block ends.

    It fails if one of them gets no answer. How much they ask for is up to the test, which waits for so many answers:
    in a given time, a busy machine may give none.

    :param port: the web server's, on this machine.
    :param connections: how many visitors there are; each has one connection.
    :param host: the host name that they ask for.
    :param keeps: they keep their connection; otherwise each request has a new one.
    :param pause: seconds between an answer and the next request of the same visitor.
    """

    def __init__(
        self, port: int, connections: int, *, host: str = LOOPBACK, keeps: bool = True, pause: float = 0.0
    ) -> None:
        self._port = port
        self._pause = pause
        self._headers = {"Host": host, "Connection": "keep-alive" if keeps else "close"}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._answers: Counter[int] = Counter()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._visit, daemon=True) for _ in range(connections)]

    @property
    def answers(self) -> Counter[int]:
        """How many answers there were of each status."""
        with self._lock:
            return Counter(self._answers)

    def wait_for(self, count: int) -> None:
        """Wait until there are *count* answers of status 200 more."""
        wanted = self.answers[200] + count
        poll(lambda: self._errors or self._answers[200] >= wanted, PATIENCE, f"{wanted} answers")

    def _visit(self) -> None:
        visitor = http.client.HTTPConnection(LOOPBACK, self._port, timeout=PATIENCE)
        try:
            while not self._over.wait(self._pause):
                visitor.request("GET", "/", headers=self._headers)
                with visitor.getresponse() as answer:
                    answer.read()
                with self._lock:
                    self._answers[answer.status] += 1
        except BaseException as error:
            self._errors.append(error)
        finally:
            visitor.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        print(f"answers at {self._port} {self._headers}: {dict(self._answers)}, errors {self._errors}")
        assert not self._errors, f"{len(self._errors)} visitors got no answer: {self._errors[0]!r}"
        assert not any(thread.is_alive() for thread in self._threads), "a visitor waits for ever"
