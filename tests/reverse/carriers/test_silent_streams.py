"""Which silent streams the client knows: those that were there before a PING that it has answered."""

from __future__ import annotations

import pytest

from rtunnel.reverse.carriers.moving import SilentStreams, is_silent
from rtunnel.wire.frames import PING
from rtunnel.wire.stream import Stream
from tests.wire.pair import LIMITS, Pair, parse

CREDIT = LIMITS.initial_credit


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.fixture
def silent() -> SilentStreams:
    return SilentStreams()


def known(silent: SilentStreams, pair: Pair) -> frozenset[Stream]:
    """What is known at the next look."""
    pair.now += 1
    return silent.known(pair.server, CREDIT, pair.now)


def pings(pair: Pair) -> int:
    """How many PINGs the server sends now; they are answered."""
    sent = parse(pair.carry(pair.server))
    pair.settle()
    return sum(kind == PING for kind, _, _ in sent)


def test_a_stream_is_known_when_a_later_ping_is_answered(silent: SilentStreams, pair: Pair) -> None:
    stream, _ = pair.open()
    assert known(silent, pair) == frozenset()
    assert known(silent, pair) == frozenset(), "there is no answer yet"
    assert pings(pair) == 1
    assert known(silent, pair) == {stream}


def test_the_answer_to_an_earlier_ping_tells_nothing(silent: SilentStreams, pair: Pair) -> None:
    first, _ = pair.open()
    known(silent, pair)
    second, _ = pair.open()  # and the answer comes
    assert known(silent, pair) == {first}
    assert pings(pair) == 1
    assert known(silent, pair) == {first, second}


def test_a_ping_that_is_on_its_way_already_tells_nothing(silent: SilentStreams, pair: Pair) -> None:
    pair.server.ping(pair.now)
    stream = pair.server.open_stream(0, "192.0.2.1:5000")
    assert silent.known(pair.server, CREDIT, pair.now) == frozenset()
    assert pings(pair) == 1
    assert known(silent, pair) == frozenset(), "nothing was asked about it"
    assert pings(pair) == 1
    assert known(silent, pair) == {stream}


def test_nothing_is_asked_about_none_or_twice(silent: SilentStreams, pair: Pair) -> None:
    known(silent, pair)
    assert pings(pair) == 0
    stream, _ = pair.open()
    known(silent, pair)
    assert pings(pair) == 1
    assert known(silent, pair) == {stream}
    assert pings(pair) == 0


def test_a_stream_that_is_not_silent_is_not_asked_about(silent: SilentStreams, pair: Pair) -> None:
    at_server, at_client = pair.open()
    assert is_silent(at_server, CREDIT)
    pair.client.send(at_client, b"x")
    pair.settle()
    assert not is_silent(at_server, CREDIT)
    assert known(silent, pair) == frozenset()
    assert pings(pair) == 0


def test_a_stream_whose_client_grants_credit_is_not_silent(pair: Pair) -> None:
    at_server, at_client = pair.open()
    pair.server.send(at_server, bytes(CREDIT))
    pair.settle()
    pair.client.delivered(at_client, CREDIT)
    pair.settle()
    assert at_server.receive_window.received == 0
    assert not is_silent(at_server, CREDIT)
