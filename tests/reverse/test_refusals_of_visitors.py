"""Who is told of visitors that rules turn away: the log at once, and clients once a minute."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from zope.interface import implementer

from rtunnel.access.limits import MAY_NOT_COME
from rtunnel.access.public import SHARED, Public
from rtunnel.access.rules import read_rules
from rtunnel.relay.sockets import format_host_port
from rtunnel.reverse.server.granted import in_words
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.refusals import MOST_KEPT, TELL_EVERY, Refusals
from rtunnel.upkeep.log_limiter import PERIOD, LogBudget
from rtunnel.wire.messages import MAX_TEXT

PORT = Public(2222)
WHY = "its address opens more than 0.2 connections a second"


class Client:
    """A client, and what it was told: the number of the tunnel, and the text."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []
        self.link = self

    def send_notice(self, number: int, text: str) -> None:
        self.told.append((number, text))

    def flush(self) -> None:
        pass

    def tunnel(self, number: int = 0) -> Backend:
        session: Any = self
        return Backend(session, number, PORT, PORT, group=self)


@implementer(ILogObserver)
class Log:
    """Refusals, their log, and what gets through the budget of a process's log."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        self.bytes = 0
        self._budget = LogBudget(self, self._length, self.clock.seconds)
        self.refusals = Refusals(self.clock)
        self.refusals._limiter._log = Logger(observer=self._budget)

    def __call__(self, event: LogEvent) -> None:
        assert event["log_level"] in (LogLevel.info, LogLevel.warn)
        self.lines.append(formatEvent(event))
        self.bytes += self._length(event)

    @staticmethod
    def _length(event: LogEvent) -> int:
        return 80 + len(formatEvent(event))

    def refuse(self, by: Any, address: str, why: str = WHY, place: Public = PORT) -> None:
        self.refusals.refused(by, place, address, format_host_port(address, 40000), why)

    def after(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            self.refusals.tick()


def test_lines() -> None:
    """One for each address, as budgets count addresses, and reason; the rest is counted."""
    log, by = Log(), Client().tunnel()
    for address in ("198.51.100.7", "198.51.100.7", "2001:db8::7", "2001:db8::8", "198.51.100.8"):
        log.refuse(by, address)
    log.refuse(by, "198.51.100.7", "its address may not come")
    log.refuse(by, "198.51.100.7", place=SHARED)
    assert log.lines == [
        f"visitor 198.51.100.7 of port 2222 refused: {WHY}",
        f"visitor 2001:db8::7 of port 2222 refused: {WHY}",
        f"visitor 198.51.100.8 of port 2222 refused: {WHY}",
        "visitor 198.51.100.7 of port 2222 refused: its address may not come",
    ]
    log.after(PERIOD)
    assert log.lines[4:] == [
        f"3 more times in 10 s, the last one: visitor 198.51.100.7 of the shared public port refused: {WHY}"
    ]
    log.refuse(by, "198.51.100.7")
    assert log.lines[-1] == log.lines[0]


def test_an_address_of_ipv4_at_a_port_for_both_families() -> None:
    """It is the address that an operator knows, and counts as the same."""
    log, client = Log(), Client()
    log.refuse(client.tunnel(), "::ffff:198.51.100.7")
    log.refuse(client.tunnel(), "198.51.100.7")
    assert log.lines == [f"visitor 198.51.100.7 of port 2222 refused: {WHY}"]
    assert client.told[0] == (0, f"visitor 198.51.100.7 was refused: {WHY}")
    assert {each.address for each in log.refusals.recent} == {"198.51.100.7"}


def test_notices() -> None:
    """The first one at once; then how many there were, once a minute, until there are none."""
    log, client = Log(), Client()
    by = client.tunnel(3)
    log.refuse(by, "198.51.100.7")
    assert client.told.pop() == (3, f"visitor 198.51.100.7 was refused: {WHY}")
    for address in ("198.51.100.7", "192.0.2.1", "192.0.2.2"):
        log.refuse(by, address)
    log.after(TELL_EVERY - 1)
    assert not client.told
    log.after(1)
    assert client.told.pop() == (3, f"visitors were refused 3 times in the last minute, the last one 192.0.2.2: {WHY}")
    log.refuse(by, "192.0.2.3")
    log.after(TELL_EVERY)
    assert client.told.pop() == (
        3,
        f"visitors were refused once more in the last minute, the last one 192.0.2.3: {WHY}",
    )
    log.after(3 * TELL_EVERY)
    assert not client.told
    assert not log.refusals._counts
    log.refuse(by, "192.0.2.4")
    assert client.told == [(3, f"visitor 192.0.2.4 was refused: {WHY}")]


def test_all_members_are_told_as_long_as_they_serve() -> None:
    log, clients = Log(), [Client(), Client()]
    backends = [client.tunnel(number) for number, client in enumerate(clients)]
    members = tuple(backends)
    log.refuse(members, "192.0.2.1")
    assert [[number for number, _ in client.told] for client in clients] == [[0], [1]]
    backends[1].group = None
    log.refuse(members, "192.0.2.1")
    log.after(TELL_EVERY)
    assert [len(client.told) for client in clients] == [2, 1]


def test_flood() -> None:
    """20,000 addresses, all refused twice: the log keeps its bounds, and the client hears of it once a minute."""
    log, client = Log(), Client()
    by = client.tunnel()
    for number in range(40_000):
        address = number % 20_000
        log.refuse(by, f"198.{18 + (address >> 16)}.{address >> 8 & 255}.{address & 255}")
        if not number % 400:
            log.after(1)
    assert 1000 < len(log.lines) < 5000
    assert log.bytes < 300_000 + 100 * 256
    assert len(client.told) == 2
    assert len(log.refusals._counts) == 1


def test_a_flood_from_few_does_not_hide_others() -> None:
    """What fail2ban needs: new addresses are in the log at once, although a hundred others are refused all the time."""
    log, by = Log(), Client().tunnel()
    for second in range(600):
        for number in range(100):
            log.refuse(by, f"192.0.2.{number}")
        newcomer = f"198.51.{second >> 8}.{second & 255}"
        log.refuse(by, newcomer)
        assert log.lines[-1].startswith(f"visitor {newcomer} of port 2222"), second
        log.after(1)


def test_in_words() -> None:
    many = [f"192.0.2.{number}" for number in range(9)]
    limits = read_rules(
        {"deny": many, "allow": "192.0.2.0/24", "max-connections": 5, "max-requests": 0.5, "max-connection-rate": 1e6},
        protocol="",
    )
    networks = "only 192.0.2.0/24 may come, 192.0.2.0, 192.0.2.1 and 7 others may not come"
    assert in_words(limits, "tcp") == (
        f"5 connections of an address at once, 1000000 new connections of an address a second, {networks}"
    )
    assert in_words(limits, "http") == (
        f"5 requests of an address at once, 0.5 requests of an address a second, {networks}"
    )
    assert in_words(read_rules({}), "tcp") == ""
    longest = read_rules({"deny": [f"2001:db8:{number:x}:ffff:ffff:ffff:ffff:ffff" for number in range(4096, 4106)]})
    assert len(in_words(longest, "udp")) < MAX_TEXT


def test_the_last_ones_are_remembered_and_all_are_counted() -> None:
    log, by = Log(), Client().tunnel()
    for number in range(MOST_KEPT + 5):
        log.refuse(by, f"198.51.100.{number}", MAY_NOT_COME)
    log.refuse(by, "2001:db8::7", WHY)
    kept = log.refusals.recent
    assert len(kept) == MOST_KEPT
    assert (kept[0].address, kept[-1].address, kept[-1].place, kept[-1].why) == (
        "198.51.100.6",
        "2001:db8::7",
        str(PORT),
        WHY,
    )
    assert log.refusals.kinds == {"address": MOST_KEPT + 5, "at-once": 0, "rate": 1}
