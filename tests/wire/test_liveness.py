"""Liveness, alone and on a link: silence, PINGs, PONGs, and a process that was stopped."""

from __future__ import annotations

import pytest

from rtunnel.errors import Code
from rtunnel.wire import frames
from rtunnel.wire.events import FrameIgnored, LinkFailed
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.link import Mode
from rtunnel.wire.liveness import MAX_PING, Liveness
from tests.wire.pair import (
    NOW,
    extended_client,
    extended_server,
    lone_client,
    lone_server,
    only,
    raw,
    reference_client,
    reference_server,
)

LIMITS = LinkLimits(keepalive_interval=5.0, dead_after=15.0)


def test_silence() -> None:
    liveness = Liveness(LIMITS, NOW)
    states = []
    for second in range(1, 17):
        liveness.tick(NOW + second)
        states.append((liveness.is_silent, liveness.is_dead))
    assert states[:4] == [(False, False)] * 4
    assert states[4:14] == [(True, False)] * 10
    assert states[14:] == [(True, True)] * 2


@pytest.mark.parametrize("heard", [0.0, 0.3, 1.0])
def test_hearing_ends_the_silence(heard: float) -> None:
    """This holds too if the byte comes at the very time of a tick, after it."""
    liveness = Liveness(LIMITS, NOW)
    for second in range(1, 15):
        liveness.tick(NOW + second)
    before = liveness.is_silent
    liveness.last_heard = NOW + 14 + heard
    liveness.tick(NOW + 15)
    assert (before, liveness.is_silent) == (True, False)
    for second in range(16, 28):
        liveness.tick(NOW + second)
        assert not liveness.is_dead


@pytest.mark.parametrize(("interval", "every"), [(5.0, 1.0), (2.0, 1.0), (0.5, 0.25)])
def test_how_often_to_tick(interval: float, every: float) -> None:
    assert Liveness(LinkLimits(keepalive_interval=interval), NOW).tick_every == every


def test_dead_no_later_than_dead_after_however_the_ticks_fall() -> None:
    for offset in (0.0, 0.25, 0.999):
        liveness = Liveness(LIMITS, NOW)
        liveness.last_heard = now = NOW + offset
        second = 0
        while not liveness.is_dead:
            second += 1
            now = NOW + second
            liveness.tick(now)
        assert 14 < now - liveness.last_heard <= 15


@pytest.mark.parametrize(("interval", "dead_after"), [(5.0, 5.1), (5.0, 6.0), (5.0, 15.0), (0.2, 0.25), (2.0, 2.5)])
@pytest.mark.parametrize("late", [0.0, 0.01])
def test_the_peer_is_asked_before_it_counts_as_dead(interval: float, dead_after: float, late: float) -> None:
    liveness = Liveness(LinkLimits(keepalive_interval=interval, dead_after=dead_after), NOW)
    for number in range(1, 100):
        liveness.tick(NOW + number * (liveness.tick_every + late))
        if liveness.is_silent:
            break
    assert not liveness.is_dead


def test_a_stopped_process_is_not_the_silence_of_the_peer() -> None:
    liveness = Liveness(LIMITS, NOW)
    liveness.tick(NOW + 1)
    liveness.tick(NOW + 3600)
    assert not liveness.is_silent
    assert not liveness.is_dead
    for second in range(1, 30):
        liveness.tick(NOW + 3600 + second)
    assert liveness.is_dead, "but after that its silence counts again"


def test_a_clock_that_steps_back_is_no_silence() -> None:
    liveness = Liveness(LIMITS, NOW)
    liveness.tick(NOW - 100)
    states = []
    for second in (2, 4, 6):
        liveness.tick(NOW + second)
        states.append(liveness.is_silent)
    assert states == [False, False, True], "nor does it delay the next PING"


def test_one_ping_at_a_time() -> None:
    liveness = Liveness(LIMITS, NOW)
    first = liveness.make_ping(NOW)
    assert first is not None
    assert len(first) <= MAX_PING
    assert liveness.make_ping(NOW + 4.9) is None
    second = liveness.make_ping(NOW + 5)
    assert second is not None
    assert second != first
    assert not liveness.take_pong(first, NOW + 6), "too late: it would give a wrong round trip"
    assert liveness.take_pong(second, NOW + 6)
    assert liveness.round_trip == 1.0
    assert not liveness.take_pong(second, NOW + 6), "answered already"


def test_the_shortest_round_trip_counts() -> None:
    liveness = Liveness(LIMITS, NOW)
    assert liveness.round_trip == 0
    now = NOW
    for sample, shortest in [(2.0, 2.0), (0.5, 0.5), (3.0, 0.5), (0.0, 0.5)]:
        payload = liveness.make_ping(now)
        assert payload is not None
        now += sample
        assert liveness.take_pong(payload, now)
        assert liveness.round_trip == shortest


def test_an_answer_tells_what_the_peer_has_read() -> None:
    liveness = Liveness(LIMITS, NOW)
    assert (liveness.pings, liveness.answered) == (0, 0)
    first = liveness.make_ping(NOW)
    assert (liveness.pings, liveness.answered) == (1, 0)
    assert first is not None
    liveness.take_pong(first, NOW + 1)
    liveness.make_ping(NOW + 2)
    assert (liveness.pings, liveness.answered) == (2, 1)


def test_no_pong_without_a_ping() -> None:
    assert not Liveness(LIMITS, NOW).take_pong(b"0" * 16, NOW)


# On a link


@pytest.mark.parametrize("make", [extended_server, extended_client])
def test_a_silent_peer_is_asked_and_then_dropped(make) -> None:
    lone = make()
    assert lone.tick(4) == []
    assert lone.sent() == []
    assert lone.tick(1) == []
    assert [frame[0] for frame in lone.sent()] == [frames.PING]
    assert lone.tick(9) == []
    assert [frame[0] for frame in lone.sent()] == [frames.PING], "again, but only after as long"
    assert lone.tick(1) == [LinkFailed(Code.TIMEOUT, "nothing heard for 15 s", by_peer=False)]
    assert lone.link.is_closed


@pytest.mark.parametrize(
    "answer", [raw(frames.PONG, 0, b"0" * 15 + b"1"), raw(0x99), b"\x02", raw(frames.CLOSE_CONN, 9)]
)
def test_any_byte_proves_life(answer: bytes) -> None:
    lone = extended_server()
    for _ in range(5):
        assert only(lone.tick(14), LinkFailed) == []
        assert [frame[0] for frame in lone.sent()] == [frames.PING, frames.PING]
        lone.feed(answer)
    lone.tick(14)
    assert lone.tick(1) == [LinkFailed(Code.TIMEOUT, "nothing heard for 15 s", by_peer=False)]


def test_a_stopped_process_keeps_its_link() -> None:
    lone = extended_server()
    lone.tick(3)
    lone.now += 3600
    lone.link.tick(lone.now)
    assert lone.link.take_events() == []
    assert not lone.link.is_closed


@pytest.mark.parametrize("make", [lone_server, lone_client, reference_server, reference_client])
def test_a_peer_that_knows_no_ping_is_not_asked_and_not_dropped(make) -> None:
    lone = make()
    lone.sent()
    mode = lone.link.mode
    assert lone.tick(100) == []
    lone.link.ping(lone.now)
    assert lone.sent() == []
    assert lone.link.mode is mode is not Mode.CLOSED


def test_a_ping_is_echoed() -> None:
    lone = extended_server()
    for payload in (b"", b"x", b"\xff" * 16):
        assert lone.feed(raw(frames.PING, 0, payload)) == []
        assert lone.sent() == [(frames.PONG, 0, payload)]


def test_a_long_ping_is_ignored() -> None:
    lone = extended_server()
    (event,) = lone.feed(raw(frames.PING, 0, bytes(17)))
    assert event == FrameIgnored("PING of more than 16 bytes", is_normal=False)
    assert lone.sent() == []


def test_the_round_trip_is_measured() -> None:
    lone = extended_client()
    lone.link.ping(lone.now)
    lone.link.ping(lone.now)
    ((frame_type, conn_id, payload),) = lone.sent()
    assert (frame_type, conn_id) == (frames.PING, 0)
    lone.now += 0.25
    assert lone.feed(raw(frames.PONG, 0, payload)) == []
    assert lone.link.liveness.round_trip == 0.25
    assert lone.feed(raw(frames.PONG, 0, payload)) == [FrameIgnored("PONG without a PING", is_normal=True)]
