"""Associations between two ends that mean well: shares, windows, acknowledgements, and what is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import pytest_twisted
from OpenSSL import SSL

from rtunnel.rtc.aiortc import inbound
from rtunnel.rtc.aiortc.inbound import RECEIVE_WINDOW, WINDOW_SLACK
from rtunnel.rtc.aiortc.sctp import Association
from rtunnel.rtc.aiortc.send_queue import DATAGRAM_SHARE, MAX_DATAGRAM_BYTES
from tests.reverse.net import turns, until
from tests.rtc.aiortc.sctp_parts import DATA, SACK, ChannelTold, Pair, ended, kinds


@pytest_twisted.ensureDeferred
async def test_the_oldest_datagrams_are_dropped_and_counted() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        flow, _, other = await pair.open(reliable=False)
        for number in range(400):
            flow.send(b"%04d" % number + bytes(996))
        dropped = pair.one.datagrams_dropped
        assert 400 - MAX_DATAGRAM_BYTES // 1000 <= dropped < 400
        await until(lambda: len(other.told) == 400 - dropped, "the others")
        assert other.told[0][1][:4] == b"%04d" % dropped


@pytest_twisted.ensureDeferred
async def test_datagrams_without_a_byte_arrive() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        flow, user, other = await pair.open(reliable=False)
        for data in (b"", b"x", b"", b""):
            flow.send(data)
            pair.users[1].channels[0].send(data)
        await until(lambda: len(other.told) == 4 and len(user.told) == 5, "datagrams")
        assert other.told == user.told[1:] == [("binary", b""), ("binary", b"x"), ("binary", b""), ("binary", b"")]


@pytest_twisted.ensureDeferred
async def test_streams_keep_their_share_beside_more_datagrams_than_can_be_sent() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        flow, _, other_flow = await pair.open(reliable=False)
        stream, _, other_stream = await pair.open()

        # There is always another datagram, and the stream always has more to send.
        def passes(packet: bytes) -> bool:
            flow.send(bytes(1000))
            return True

        pair.wires[0].passes = passes
        pair.users[0].on_room = lambda: stream.send(bytes(16384))
        flow.send(bytes(1000))
        await until(lambda: len(other_flow.received) > 2_000_000, "datagrams")
        pair.wires[0].passes = lambda packet: True
        pair.users[0].on_room = lambda: None
        share = len(other_flow.received) / len(other_stream.received)
        assert 0.8 * DATAGRAM_SHARE < share < 1.2 * DATAGRAM_SHARE


@pytest_twisted.ensureDeferred
async def test_a_channel_opens_beside_more_datagrams_than_can_be_sent() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        flow, _, other_flow = await pair.open(reliable=False)
        for _ in range(100):
            flow.send(bytes(1000))
        waiting = len(pair.one._queue.streams_of())
        await pair.open()
        assert waiting
        assert len(other_flow.told) < 100
        await until(lambda: len(other_flow.told) == 100, "the datagrams")


@pytest_twisted.ensureDeferred
async def test_bytes_that_are_held_shut_the_window_and_those_released_open_it() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()
        other.on_message = lambda data: pair.two.hold(len(data))
        total = 4 * RECEIVE_WINDOW
        sent = 0

        def feed() -> None:
            nonlocal sent
            if sent < total:
                channel.send(bytes(16384))
                sent += 16384

        pair.users[0].on_room = feed
        feed()
        await until(lambda: pair.one._peer_window < 16384 and not pair.one._outbound_queue, "a window that is shut")
        await turns(50)
        held = len(other.received)
        # With nothing in flight one message goes in any case, to ask whether the window is still shut.
        assert held <= RECEIVE_WINDOW + WINDOW_SLACK + 16384
        assert sent < total
        other.on_message = lambda data: None
        pair.two.release(held)
        await until(lambda: len(other.received) == total, "the rest")
        assert pair.two._advertised_rwnd == RECEIVE_WINDOW


@pytest_twisted.ensureDeferred
async def test_one_packet_in_flight_is_acknowledged_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "SACK_DELAY", 0.01)
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()

        def acknowledged(count: int) -> bool:
            return len(other.told) == count and not pair.one._flight_size

        for number in range(5):
            channel.send(b"%d" % number)
            await until(partial(acknowledged, number + 1), "a SACK")
        # Nothing was sent twice: it did not take a time-out.
        assert not pair.two._sack_duplicates
        assert pair.one._rto < 3


@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_set_back_changes_no_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour less than nothing would be taken for the round trip, and the association would wait for too long."""
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 3600 * len(other.told))

        def acknowledged(count: int) -> bool:
            return len(other.told) == count and not pair.one._flight_size

        for number in range(5):
            channel.send(b"%d" % number)
            await until(partial(acknowledged, number + 1), "a SACK")
        assert 0 < pair.one.round_trip < 3600
        assert pair.one._rto < 60


@pytest_twisted.ensureDeferred
async def test_every_second_packet_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()
        sent: list[int] = []
        acknowledged: list[int] = []
        late: list[object] = []
        when_late = Association._sack_is_late

        def note_late(association: Association) -> None:
            late.append(association)
            when_late(association)

        monkeypatch.setattr(Association, "_sack_is_late", note_late)

        def note(kind: int, seen: list[int]) -> Callable[[bytes], bool]:
            def passes(packet: bytes) -> bool:
                seen.extend(each for each in kinds(packet) if each == kind)
                return True

            return passes

        pair.wires[0].passes, pair.wires[1].passes = note(DATA, sent), note(SACK, acknowledged)
        channel.send(bytes(200_000))
        await until(lambda: other.received, "the message")
        assert len(sent) > 150
        # If the second packet does not come soon, the first is acknowledged by itself.
        assert len(acknowledged) <= len(sent) // 2 + 1 + late.count(pair.two)


@pytest_twisted.ensureDeferred
async def test_what_is_lost_is_sent_again_and_datagrams_are_not() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()
        flow, _, other_flow = await pair.open(reliable=False)
        seen = 0

        def every_seventh_is_lost(packet: bytes) -> bool:
            nonlocal seen
            seen += 1
            return bool(seen % 7)

        pair.wires[0].passes = every_seventh_is_lost
        for number in range(30):
            channel.send(b"%02d" % number * 2000)
            flow.send(b"%02d" % number)
        await until(lambda: len(other.told) == 30, "all messages")
        assert other.received == b"".join(b"%02d" % number * 2000 for number in range(30))
        await until(lambda: not pair.one._sent_queue, "an end of the datagrams")
        assert 15 <= len(other_flow.told) < 30
        assert pair.users[1].told == ["up"]


@pytest_twisted.ensureDeferred
async def test_the_end_of_an_association_closes_all_channels_once() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, user, other = await pair.open()
        unopened = pair.one.open_channel("tcp-y", "", reliable=True)
        told = ChannelTold()
        unopened.use(told)
        channel.send(bytes(100_000))
        await pair.one.stop()
        await until(lambda: "down" in pair.users[1].told, "the other end to know")
        assert user.told == ["opened", "closed"]
        assert told.told == ["closed"]
        assert other.told[-1] == "closed"
        assert pair.users[0].told == pair.users[1].told == ["up", "down"]
        assert pair.one.buffered == 0


@pytest_twisted.ensureDeferred
async def test_a_peer_without_another_stream_gets_no_channel() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        pair.one._outbound_streams_count = 3
        await pair.open()
        await pair.open()
        channel = pair.one.open_channel("tcp-z", "", reliable=True)
        told = ChannelTold()
        channel.use(told)
        await until(lambda: told.told, "its end")
        assert told.told == ["closed"]
        assert pair.users[1].told == ["up"]


@pytest_twisted.ensureDeferred
async def test_a_mistake_in_a_users_event_is_ours(flush_logged_errors: object) -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()

        def wrong(data: bytes) -> None:
            raise RuntimeError("a mistake")

        other.on_message = wrong
        channel.send(b"x")
        await until(lambda: other.told, "a message")
        assert len(flush_logged_errors(RuntimeError)) == 1  # type: ignore[operator]
        other.on_message = lambda data: None
        channel.send(b"y")
        await until(lambda: other.received == b"xy", "another")
        assert pair.users[1].told == ["up"]


@pytest_twisted.ensureDeferred
async def test_what_comes_behind_the_goodbye_of_dtls_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def say_that_it_is_over(data: bytes) -> None:
        asked.append(data)
        raise SSL.Error([("SSL routines", "", "protocol is shutdown")])

    with ended(Pair()) as pair:
        await pair.connect()
        monkeypatch.setattr(pair.wires[0], "_send_data", say_that_it_is_over)
        pair.one._sack_is_late()
        # A logged error would fail the test.
        await until(lambda: asked, "an attempt")
        await turns()
