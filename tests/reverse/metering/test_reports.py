"""What is used at a process that another one has taken the place of."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from rtunnel.reverse.metering.quotas import Count, Key, Quotas
from rtunnel.reverse.metering.reports import AT_ONCE, Hearer, Reporter

KEY = Key("client", "laptop", "port 8080")
OTHER = Key("group", "web", "http://app.example.org")
MB = 10**6


class Readers:
    """As much of a reactor as this needs."""

    def __init__(self) -> None:
        self.readers: set[Hearer] = set()

    def addReader(self, reader: Hearer) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Hearer) -> None:
        self.readers.discard(reader)


class Both:
    """An old process and its successor, with one clock on the wall.

    :ivar marks: quotas that are used up to a mark, of either.
    """

    def __init__(self, directory: Path) -> None:
        self.date = datetime(2026, 11, 10, tzinfo=UTC)
        self.marks: list[Count] = []
        self.old, self.new = (Quotas(directory, self._now, Clock().seconds, self.marks.append) for _ in range(2))
        self.count = self.old.count(KEY, 10 * MB)
        self.count.add(MB)
        self.old.write()
        self.reporter = Reporter(self.old)
        self.reactor = Readers()
        self.ended: list[Hearer] = []
        theirs = socket.socket(fileno=self.reporter.theirs.detach())
        theirs.setblocking(False)
        self.hearer = Hearer(self.reactor, theirs, self.new, self.ended.append)
        self.hearer.go_on()

    def _now(self) -> float:
        return self.date.timestamp()

    def report(self) -> None:
        self.reporter.report()
        self.hearer.doRead()

    def close(self) -> None:
        self.reporter.close()
        self.hearer.close()


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    found = Both(tmp_path / "state")
    yield found
    found.close()


def test_what_is_used_is_counted_once(both: Both) -> None:
    both.report()
    assert both.new.used == {}, "nobody has asked for it, so the file is not read"
    both.count.add(MB)
    both.report()
    assert both.new.used == {KEY: 2 * MB}
    both.report()
    both.count.add(MB)
    both.old.count(OTHER, MB).add(5)
    both.report()
    assert both.new.used == {KEY: 3 * MB, OTHER: 5}


def test_who_has_no_quota_at_the_new_one_is_counted_all_the_same(both: Both) -> None:
    both.count.add(50 * MB)
    both.report()
    assert both.new.used == {KEY: 51 * MB}
    assert both.new.count(KEY, 60 * MB).is_nearly_used_up


def test_a_quota_is_used_up_by_both_together(both: Both) -> None:
    """Each knows, and nothing is counted twice."""
    new = both.new.count(KEY, 10 * MB)
    new.add(4 * MB)
    both.count.add(4 * MB)
    both.report()
    assert (new.used, new.is_used_up, both.count.is_used_up) == (9 * MB, False, False)
    both.count.add(MB // 2)
    both.report()
    assert both.count.used == 9 * MB + MB // 2
    assert new.used == 9 * MB + MB // 2
    new.add(MB)
    both.count.add(1)
    both.report()
    both.report()
    assert new.used == both.count.used == 10 * MB + MB // 2 + 1
    assert new.is_used_up
    assert both.count.is_used_up
    assert both.marks[-2:] == [new, both.count]


def test_a_month_begins(both: Both) -> None:
    both.count.add(MB)
    both.date = datetime(2026, 12, 1, tzinfo=UTC)
    both.count.add(MB)
    both.reporter.report()
    both.count.add(7)
    both.new.look_at_month()
    both.report()
    assert both.new.used == {KEY: 7}


def test_more_than_a_packet(both: Both) -> None:
    for number in range(2 * AT_ONCE + 1):
        both.old.count(Key("client", str(number), ""), MB).add(1)
    both.reporter.report()
    for _ in range(3):
        both.hearer.doRead()
    assert sum(both.new.used.values()) == MB + 2 * AT_ONCE + 1


def test_the_new_one_is_gone(both: Both) -> None:
    both.hearer.close()
    both.count.add(MB)
    both.reporter.report()
    both.reporter.report(0.1)


def test_the_new_one_is_busy(both: Both) -> None:
    """Nothing is lost, and nothing waits."""
    for _ in range(10_000):
        both.count.add(1)
        both.reporter.report()
    while both.new.used.get(KEY, 0) < MB + 10_000:
        both.hearer.doRead()
        both.reporter.report()
    assert both.new.used == {KEY: MB + 10_000}


@pytest.mark.parametrize("said", [b"", b"no", b"{}", b'{"month": "2026-11", "used": [{"client": 1}]}'])
def test_the_old_one_ends_or_makes_no_sense(both: Both, said: bytes) -> None:
    if said:
        both.reporter._ours.send(said)
    else:
        both.reporter.close()
    both.hearer.doRead()
    assert both.ended == [both.hearer]
    assert both.reactor.readers == set()


def test_another_upgrade(both: Both) -> None:
    """The end of the socket goes on; meanwhile reports wait."""
    both.hearer.pause()
    assert both.reactor.readers == set()
    both.count.add(MB)
    both.reporter.report()
    newest = Hearer(both.reactor, socket.socket(fileno=both.hearer._socket.detach()), both.new, both.ended.append)
    newest.doRead()
    assert both.new.used == {KEY: 2 * MB}
    newest.close()
