"""What is used of monthly quotas: months, marks, and the file that outlives the process."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from rtunnel.reverse.metering import quotas as module
from rtunnel.reverse.metering.quotas import NAME, Count, Key, Quotas, month_of, next_month
from tests.leftovers import TestLog

LAPTOP = Key("client", "laptop", "port 8080")
GROUP = Key("group", "web", "http://app.example.org")
MB = 10**6


class World:
    """Quotas in a directory, and two clocks that stand still.

    :ivar date: what the clock on the wall says.
    """

    def __init__(self, directory: Path, log: TestLog) -> None:
        self.directory = directory
        self.path = directory / NAME
        self.clock = Clock()
        self.date = datetime(2026, 11, 10, tzinfo=UTC)
        self.marks: list[Count] = []
        self._log = log
        self.quotas = self.start()

    def start(self) -> Quotas:
        """The process is there again; the last one was killed."""
        self.quotas = Quotas(self.directory, self._now, self.clock.seconds, self.marks.append)
        return self.quotas

    def _now(self) -> float:
        return self.date.timestamp()

    def written(self) -> dict[str, int]:
        """What the file has."""
        return {each["place"]: each["bytes"] for each in json.loads(self.path.read_text())["used"]}

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.quotas.tick()

    def lines(self) -> list[str]:
        return [line for line in self._log.text().splitlines() if "quota" in line]


@pytest.fixture
def world(tmp_path: Path, _nothing_left_behind: TestLog) -> World:
    return World(tmp_path / "state", _nothing_left_behind)


@pytest.mark.parametrize(
    ("date", "month", "following"),
    [
        ("2026-11-30T23:59:59+00:00", "2026-11", "2026-12-01"),
        ("2026-12-31T23:59:59+00:00", "2026-12", "2027-01-01"),
        ("2027-01-01T00:00:00+00:00", "2027-01", "2027-02-01"),
        ("2028-02-29T23:59:59+00:00", "2028-02", "2028-03-01"),
        ("2028-02-28T23:59:59+00:00", "2028-02", "2028-03-01"),
        # It is UTC everywhere.
        ("2026-12-01T00:30:00+01:00", "2026-11", "2026-12-01"),
        ("2026-11-30T20:00:00-05:00", "2026-12", "2027-01-01"),
        ("1970-01-01T00:00:00+00:00", "1970-01", "1970-02-01"),
    ],
)
def test_months(date: str, month: str, following: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    found = month_of(datetime.fromisoformat(date).timestamp())
    assert found == month
    assert next_month(found) == datetime.fromisoformat(following).replace(tzinfo=UTC)


def test_marks(world: World) -> None:
    count = world.quotas.count(LAPTOP, 100 * MB)
    count.add(80 * MB - 1)
    assert not world.marks
    count.add(1)
    assert world.marks == [count]
    assert world.quotas.warning(count) == (
        "80 % (80 MB) of the quota of 100 MB of this month is used; it begins anew on 2026-12-01, 00:00 UTC"
    )
    count.add(20 * MB - 1)
    assert len(world.marks) == 1
    count.add(1)
    assert world.marks == [count, count]
    assert count.is_used_up
    assert world.quotas.warning(count) == (
        "all of the quota of 100 MB of this month is used; it begins anew on 2026-12-01, 00:00 UTC; "
        "visitors are refused until then"
    )
    count.add(MB)
    assert world.marks == [count, count]


def test_both_at_once(world: World) -> None:
    """A small quota, and a large piece."""
    count = world.quotas.count(LAPTOP, MB)
    count.add(2 * MB)
    assert count.is_used_up
    assert world.marks == [count]


def test_another_quota(world: World) -> None:
    count = world.quotas.count(LAPTOP, MB)
    count.add(MB)
    assert world.quotas.count(LAPTOP, 10 * MB) is count
    assert not count.is_used_up
    count.add(7 * MB)
    assert len(world.marks) == 2
    world.quotas.count(LAPTOP, 5 * MB)
    assert count.is_used_up


@pytest.mark.parametrize("is_later", [False, True])
def test_a_month_begins(is_later: bool, world: World) -> None:
    """Also if the process was not there."""
    count = world.quotas.count(LAPTOP, MB)
    count.add(MB)
    world.quotas.write()
    world.date = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    world.quotas.tick()
    assert count.is_used_up
    assert world.quotas.seconds_left == 1
    world.date = datetime(2027, 2, 3, tzinfo=UTC) if is_later else datetime(2026, 12, 1, tzinfo=UTC)
    world.quotas.tick()
    assert (count.used, count.is_used_up) == (0, False)
    assert any("the quota of port 8080 of the client 'laptop' begins anew" in line for line in world.lines())
    assert world.start().count(LAPTOP, MB).used == 0


def test_a_clock_that_is_set_back_gives_nothing(world: World) -> None:
    count = world.quotas.count(LAPTOP, MB)
    count.add(MB)
    world.date = datetime(2026, 10, 31, tzinfo=UTC)
    world.quotas.tick()
    assert count.is_used_up
    world.quotas.write()
    world.date = datetime(2026, 9, 30, tzinfo=UTC)
    assert world.start().count(LAPTOP, MB).is_used_up


def test_restarts(world: World) -> None:
    world.quotas.count(LAPTOP, 10 * MB).add(123)
    world.quotas.count(GROUP, 10 * MB).add(456)
    world.quotas.count(Key("client", "idle", ""), MB)
    world.quotas.write()
    assert world.written() == {"port 8080": 123, "http://app.example.org": 456}
    assert world.path.stat().st_mode & 0o777 == 0o600
    assert world.directory.stat().st_mode & 0o777 == 0o700
    world.start()
    assert world.quotas.count(LAPTOP, 10 * MB).used == 123
    # Of those that nobody has asked for yet, nothing is lost either.
    world.quotas.count(LAPTOP, 10 * MB).add(1)
    world.quotas.write()
    world.start()
    assert world.quotas.count(LAPTOP, 10 * MB).used == 124
    assert world.quotas.count(GROUP, 10 * MB).used == 456
    # Another client of the same name as a group is another one.
    assert world.quotas.count(Key("client", "web", GROUP.place), MB).used == 0
    assert list(world.directory.iterdir()) == [world.path]


def test_it_is_written_now_and_then(world: World) -> None:
    count = world.quotas.count(LAPTOP, 1000 * MB)
    world.pass_time(100)
    assert not world.directory.exists()
    count.add(MB)
    world.pass_time(1)  # the last time is long ago
    assert world.written() == {"port 8080": MB}
    count.add(MB)
    world.pass_time(58)
    assert world.written() == {"port 8080": MB}
    world.pass_time(2)
    assert world.written() == {"port 8080": 2 * MB}
    count.add(10 * MB)
    world.pass_time(1)
    assert world.written() == {"port 8080": 12 * MB}
    before = world.path.stat().st_mtime_ns
    world.pass_time(1000)
    world.quotas.write()
    assert world.path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 500,
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"month": "2026-13", "used": []}',
        b'{"month": 7, "used": []}',
        b'{"month": "2026-11", "used": {"a": 1}}',
        b'{"month": "2026-11", "used": [{"client": "a", "place": "b", "bytes": -1}]}',
        b'{"month": "2026-11", "used": [{"client": "a", "place": "b", "bytes": true}]}',
        b'{"month": "2026-11", "used": [{"client": 1, "place": "b", "bytes": 1}]}',
        b'{"month": "2026-11", "used": [{"place": "b", "bytes": 1}]}',
        b'{"month": "2026-11", "used": [%s]}'
        % b",".join(b'{"client": "%d", "place": "", "bytes": 1}' % number for number in range(module.MOST + 1)),
    ],
)
def test_a_damaged_file_is_put_aside(content: bytes, world: World) -> None:
    world.directory.mkdir(mode=0o700)
    world.path.write_bytes(content)
    count = world.quotas.count(LAPTOP, MB)
    assert count.used == 0
    [line] = world.lines()
    assert "is damaged (" in line
    assert "it is quotas.json.bad now" in line
    assert (world.directory / "quotas.json.bad").read_bytes() == content
    count.add(5)
    world.quotas.write()
    assert world.written() == {"port 8080": 5}


def test_a_file_that_others_may_change_is_not_read(world: World) -> None:
    world.directory.mkdir(mode=0o700)
    world.path.write_text('{"month": "2026-11", "used": [{"client": "laptop", "place": "port 8080", "bytes": 5}]}')
    world.path.chmod(0o666)
    assert world.quotas.count(LAPTOP, MB).used == 0
    [line] = world.lines()
    assert "quotas begin anew, as" in line
    assert "every user of this machine may change" in line


def test_a_directory_that_cannot_be_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and another one when it can be written again. The counts go on meanwhile."""
    world.directory.write_text("in the way")
    count = world.quotas.count(LAPTOP, 100 * MB)
    count.add(5 * MB)
    for _ in range(5):
        world.pass_time(100)
    lines = [line for line in world.lines() if "cannot be written to" in line]
    assert len(lines) == 1
    assert lines[0].endswith("; a restart would begin them anew")
    world.directory.unlink()
    world.pass_time(100)
    assert any("are written to" in line for line in world.lines())
    assert world.written() == {"port 8080": 5 * MB}

    def refuse(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    count.add(MB)
    monkeypatch.setattr(os, "fdopen", _closing(refuse))
    world.pass_time(100)
    assert world.written() == {"port 8080": 5 * MB}
    assert list(world.directory.iterdir()) == [world.path]


def _closing(then: Callable[[], None]) -> Callable[..., None]:
    def call(descriptor: int, *_arguments: object) -> None:
        os.close(descriptor)
        then()

    return call


def test_one_client_with_many_places_forgets_only_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    mine = world.quotas.count(LAPTOP, MB)
    mine.add(1)
    whole = world.quotas.count(Key("client", "many", ""), MB)
    whole.add(1)
    for number in range(100):
        world.quotas.count(Key("client", "many", f"port {number}"), MB).add(1000 - number)
    assert len(world.quotas._counts) == 10
    assert world.quotas.count(LAPTOP, MB) is mine
    assert world.quotas.count(Key("client", "many", ""), MB) is whole


def test_without_a_quota_nothing_is_read_or_written(world: World) -> None:
    world.directory.mkdir()
    world.path.write_text("damaged")
    for _ in range(100):
        world.pass_time(10)
    world.quotas.write()
    assert world.path.read_text() == "damaged"
    assert not world.lines()


def test_a_count_without_a_quota_lasts_for_its_month(world: World) -> None:
    count = world.quotas.count(LAPTOP, MB)
    count.add(10)
    count.set_limit(math.inf)
    world.date = datetime(2026, 12, 1, tzinfo=UTC)
    world.quotas.tick()
    assert not world.quotas._counts
