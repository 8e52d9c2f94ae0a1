"""What tunnels have carried: counted while it passes, and kept when visitors and clients are gone."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from rtunnel.errors import Code
from rtunnel.relay.interfaces import RESET
from rtunnel.traffic import accounts as module
from rtunnel.traffic.access_log import AccessLog
from rtunnel.traffic.accounts import CONNECTION, DATAGRAMS, DONE, LINK, LOOK_EVERY, OTHER, REQUEST, Accounts


class Relay:
    """Has relayed so many bytes."""

    def __init__(self, received: int = 0, sent: int = 0, reason: str = "") -> None:
        self.bytes_received = received
        self.bytes_sent = sent
        self.reason = reason


class File:
    """Keeps lines, as long as there is room."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.is_full = False

    def write(self, data: str) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        assert data.endswith("\n")
        self.lines.append(json.loads(data))

    def close(self) -> None:
        pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(clock: Clock) -> Accounts:
    return Accounts(clock)


def test_those_who_are_there_and_those_who_are_gone(accounts: Accounts) -> None:
    account = accounts.of("laptop", "port 80")
    one, other = Relay(10, 200), Relay(1, 2)
    account.begin(one, "192.0.2.1:5", CONNECTION)
    account.begin(other, "192.0.2.1:6", LINK)
    assert (account.visitors, account.totals, len(account.live)) == (2, (11, 202), 2)
    one.bytes_sent += 300
    account.over(one)
    account.over(one)
    assert (account.visitors, account.totals, len(account.live)) == (2, (11, 502), 1)
    one.bytes_sent += 1000  # nobody looks any more
    assert accounts.totals == (11, 502)
    assert accounts.visitors == 2
    assert accounts.of("laptop", "port 80") is account


def test_a_visitor_who_moves_keeps_what_was_counted(accounts: Accounts) -> None:
    account = accounts.of("", "ssh")
    before, after = Relay(10, 20), Relay(1, 2)
    account.begin(before, "x", LINK)
    account.replace(before, after)
    assert (account.totals, list(account.live)) == ((11, 22), [after])
    account.over(before)
    account.over(after)
    assert (account.totals, account.visitors) == ((11, 22), 1)
    account.replace(before, after)  # somebody who is not counted
    assert not account.live


def test_at_the_service_what_its_socket_receives_goes_to_visitors(clock: Clock) -> None:
    account = Accounts(clock, are_services=True).of("", "web")
    account.begin(Relay(received=7, sent=3), "x", LINK)
    assert account.totals == (3, 7)


def test_streams_that_requests_share_are_no_visitors(accounts: Accounts) -> None:
    account = accounts.of("c", "http a.example")
    stream = Relay(5, 6)
    account.begin(stream, "", CONNECTION)
    account.over(stream)
    assert (account.visitors, account.totals) == (0, (5, 6))
    assert not accounts.reasons


def test_rates(accounts: Accounts, clock: Clock) -> None:
    clock.advance(1000.0)
    account = accounts.of("", "web")
    relay = Relay()
    account.begin(relay, "x", LINK)
    assert account.rates == (0.0, 0.0)
    for _ in range(4):
        relay.bytes_received += 500
        relay.bytes_sent += 5000
        clock.advance(LOOK_EVERY)
        accounts.tick()
    assert account.rates == (100.0, 1000.0)
    account.over(relay)
    assert accounts.rates == (100.0, 1000.0)
    clock.advance(LOOK_EVERY)
    assert account.rates == (50.0, 500.0)
    accounts.tick()
    assert account.rates == (0.0, 0.0)


def test_what_is_forgotten_stays_in_the_sums(accounts: Accounts, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(module, "MOST_ACCOUNTS", 3)
    in_use = accounts.of("in use", "port 1")
    for number in range(20):
        relay = Relay(1, 10)
        account = accounts.of(f"client {number}", "port 80")
        account.begin(relay, "x", LINK)
        account.over(relay)
    del account
    gc.collect()
    assert (accounts.visitors, accounts.totals) == (20, (20, 200))
    # Whoever is still there has the same account as before; whoever is not begins anew.
    assert accounts.of("in use", "port 1") is in_use
    assert accounts.of("client 0", "port 80").visitors == 0
    assert accounts.of("client 19", "port 80").visitors == 1
    assert accounts.visitors == 20


def test_how_long_they_stay_and_why_they_go(accounts: Accounts, clock: Clock) -> None:
    account = accounts.of("", "web")
    for seconds, reason in ((0.01, ""), (0.02, RESET), (1e6, Code.LOCAL_UNREACHABLE), (0.02, "chosen by the peer")):
        relay = Relay(reason=reason)
        account.begin(relay, "x", LINK)
        clock.advance(seconds)
        account.over(relay)
    assert dict(accounts.reasons) == {
        (LINK, DONE): 1,
        (LINK, RESET): 1,
        (LINK, "local-unreachable"): 1,
        (LINK, OTHER): 1,
    }
    counts = accounts.durations[LINK]
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (1, 2, 1, 4)
    assert accounts.seconds_of[LINK] == pytest.approx(1e6 + 0.05)


def test_a_line_for_each_who_is_gone(accounts: Accounts, clock: Clock) -> None:
    file = File()
    accounts.log = AccessLog(file, clock.seconds)
    account = accounts.of("laptop", "port 80")
    relay, stream = Relay(12, 34, RESET), Relay(1, 1)
    account.begin(relay, "192.0.2.1:5", DATAGRAMS)
    account.begin(stream, "", LINK)
    clock.advance(2.5)
    account.over(relay)
    account.over(stream)
    [line] = file.lines
    assert line.pop("time").endswith("Z")
    assert line == {
        "visitor": "192.0.2.1:5",
        "client": "laptop",
        "tunnel": "port 80",
        "carrier": "datagrams",
        "from_visitor": 12,
        "to_visitor": 34,
        "seconds": 2.5,
        "reason": "reset",
    }


def test_requests(accounts: Accounts, clock: Clock) -> None:
    file = File()
    account = accounts.of("laptop", "http://a.example")
    began = clock.seconds()
    clock.advance(0.3)
    more = {"method": "GET", "host": "a.example", "target": "/x"}
    accounts.request(account, 200, 10, 20, began, DONE, lambda: ("192.0.2.1:5", more))
    accounts.log = AccessLog(file, clock.seconds)
    accounts.request(account, 0, 10, 0, began, RESET, lambda: ("192.0.2.1:5", more))
    accounts.request(None, 404, 0, 90, began, "refused", lambda: ("192.0.2.1:6", more))
    assert account.statuses == {"2xx": 1, "none": 1}
    assert accounts.reasons[REQUEST, "refused"] == 1
    first, second = file.lines
    assert (first["status"], first["tunnel"], first["target"], first["reason"]) == (0, "http://a.example", "/x", RESET)
    assert (second["status"], second["tunnel"], second["visitor"]) == (404, "", "192.0.2.1:6")


def test_a_full_disk_disturbs_nobody(accounts: Accounts, clock: Clock) -> None:
    file = File()
    accounts.log = AccessLog(file, clock.seconds)
    account = accounts.of("", "web")
    with capturedLogs() as events:
        for is_full in (True, True, False, True):
            file.is_full = is_full
            relay = Relay()
            account.begin(relay, "x", LINK)
            account.over(relay)
        assert len(file.lines) == 1
        clock.advance(60.0)
        account.begin(relay, "x", LINK)
        account.over(relay)
    assert [formatEvent(event) for event in events] == [
        "the access log cannot be written: No space left on device; lines lost so far: 1",
        "the access log cannot be written: No space left on device; lines lost so far: 4",
    ]
