"""Channels between two ends that mean well: shares, windows, acknowledgements, and what is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import pytest
import pytest_twisted

from rtunnel.rtc.channels import pump
from rtunnel.wire.sctp.chunks import ABORT, DATA, I_DATA, SACK
from rtunnel.wire.sctp.events import AssociationLimits
from rtunnel.wire.sctp.receiving import WINDOW_SLACK
from rtunnel.wire.sctp.scheduler import DATAGRAM_SHARE, MAX_DATAGRAM_BYTES
from tests.reverse.net import turns, until
from tests.rtc.channels.channels_parts import ChannelTold, Pair, association_of, ended, is_acknowledged, pump_of
from tests.wire.sctp.by_hand import kinds, values

WINDOW = AssociationLimits().interleaved_window


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
        opened: list[int] = []
        told = ChannelTold()

        # There is always another datagram.
        def passes(packet: bytes) -> bool:
            flow.send(bytes(1000))
            return True

        pair.wires[0].passes = passes
        for _ in range(100):
            flow.send(bytes(1000))
        channel = pair.one.open_channel("tcp-y", "", reliable=True)
        channel.use(told)
        await until(lambda: told.told, "a channel")
        opened.append(pair.wires[0].packets)
        assert association_of(pair.one)._scheduler.has_some
        pair.wires[0].passes = lambda packet: True
        count = len(other_flow.told)
        await until(lambda: len(other_flow.told) > count and is_acknowledged(pair.one), "the datagrams")


@pytest_twisted.ensureDeferred
async def test_bytes_that_are_held_shut_the_window_and_those_released_open_it() -> None:
    with ended(Pair(largest=16384)) as pair:
        await pair.connect()
        channel, _, other = await pair.open()
        other.on_message = lambda data: pair.two.hold(len(data))
        total = 3 * WINDOW
        sent = 0

        def feed() -> None:
            nonlocal sent
            if sent < total:
                channel.send(bytes(16384))
                sent += 16384

        pair.users[0].on_room = feed
        feed()
        windows: list[int] = []

        def passes(packet: bytes) -> bool:
            windows.extend(int.from_bytes(body[4:8]) for body in values([packet], SACK))
            return True

        pair.wires[1].passes = passes
        await until(lambda: windows and windows[-1] < 16384, "a window that is shut")
        await turns(50)
        held = len(other.received)
        # With nothing in flight one message goes in any case, to ask whether the window is still shut.
        assert held <= WINDOW + WINDOW_SLACK + 16384
        assert sent < total
        other.on_message = lambda data: None
        pair.two.release(held)
        await until(lambda: len(other.received) == total, "the rest")
        await until(lambda: is_acknowledged(pair.one), "the last SACK")
        assert windows[-1] == WINDOW


@pytest_twisted.ensureDeferred
async def test_one_packet_in_flight_is_acknowledged_soon() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()

        def acknowledged(count: int) -> bool:
            return len(other.told) == count and is_acknowledged(pair.one)

        for number in range(5):
            channel.send(b"%d" % number)
            await until(partial(acknowledged, number + 1), "a SACK")
        # It did not take a time-out. A busy machine may have taken longer than a probe does.
        halves = association_of(pair.one)._halves
        assert halves is not None
        assert halves.transmitter.round_trips.timeout < 3
        assert halves.transmitter.sending.timeouts == 0


@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_set_back_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour less than nothing would be taken for the round trip, and the association would wait for too long."""
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 3600 * len(other.told))

        def acknowledged(count: int) -> bool:
            return len(other.told) == count and is_acknowledged(pair.one)

        for number in range(5):
            channel.send(b"%d" % number)
            await until(partial(acknowledged, number + 1), "a SACK")
        assert 0 < pair.one.round_trip < 3600


@pytest_twisted.ensureDeferred
async def test_acknowledgements_are_at_most_every_second_packet() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, other = await pair.open()
        sent: list[int] = []
        acknowledged: list[int] = []
        late: list[float] = []
        association = association_of(pair.two)
        is_due = association._sack_is_due

        def note_late(inbound: object, now: float) -> bool:
            due = is_due(inbound, now)  # type: ignore[arg-type]
            if due and association._unacknowledged == 1:
                late.append(now)
            return due

        association._sack_is_due = note_late  # type: ignore[method-assign]

        def note(kinds_of: tuple[int, ...], seen: list[int]) -> Callable[[bytes], bool]:
            def passes(packet: bytes) -> bool:
                seen.extend({each for each in kinds(packet) if each in kinds_of})
                return True

            return passes

        pair.wires[0].passes, pair.wires[1].passes = note((DATA, I_DATA), sent), note((SACK,), acknowledged)
        channel.send(bytes(200_000))
        await until(lambda: other.received, "the message")
        assert len(sent) > 150
        # If the second packet does not come soon, the first is acknowledged by itself.
        assert 0 < len(acknowledged) <= len(sent) // 2 + 1 + len(late)
        del association._sack_is_due


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
            flow.send(b"%02d" % number * 300)
        await until(lambda: len(other.told) == 30, "all messages")
        assert other.received == b"".join(b"%02d" % number * 2000 for number in range(30))
        await until(lambda: is_acknowledged(pair.one), "an end of the datagrams")
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
        last: list[int] = []

        def note(packet: bytes) -> bool:
            last.extend(kinds(packet))
            return True

        pair.wires[0].passes = note
        pair.one.stop()
        await until(lambda: "down" in pair.users[1].told, "the other end to know")
        assert last == [ABORT]
        assert user.told == ["opened", "closed"]
        assert told.told == ["closed"]
        assert other.told[-1] == "closed"
        assert pair.users[0].told == ["up"]
        assert pair.users[1].told == ["up", "down"]
        assert pair.one.buffered == 0


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
async def test_a_user_that_stops_all_within_an_event() -> None:
    for moment in ("association_up", "channel_arrived", "has_room"):
        pair = Pair()
        stopped: list[str] = []

        def stop(*what: object, pair: Pair = pair, moment: str = moment, stopped: list[str] = stopped) -> None:
            if not stopped:
                stopped.append(moment)
                pair.two.stop()

        setattr(pair.users[1], moment, stop)
        for end, wire in zip((pair.one, pair.two), pair.wires, strict=True):
            end.start(wire, initiates=end is pair.one, even=end is pair.one, peer_port=5000, max_message=None)
        told = ChannelTold()
        pair.one.open_channel("tcp-x", "", reliable=True).use(told)
        await until(lambda stopped=stopped: stopped, moment)  # type: ignore[misc]
        await until(lambda pair=pair: "down" in pair.users[0].told, "the other end to know")  # type: ignore[misc]
        assert told.told[-1] == "closed"
        pair.close()


@pytest_twisted.ensureDeferred
async def test_one_timer_and_no_task_whatever_is_sent() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        tasks = asyncio.all_tasks()
        channel, _, other = await pair.open()
        handles: list[asyncio.TimerHandle] = []
        for number in range(100):
            channel.send(bytes(1000))
            if (timer := pump_of(pair.one)._timer) is not None:
                handles.append(timer)
            await until(lambda number=number: len(other.told) > number, "a message")  # type: ignore[misc]
        assert asyncio.all_tasks() <= tasks
        assert (
            sum(not handle.cancelled() and handle.when() > asyncio.get_running_loop().time() for handle in handles) < 5
        )


@pytest_twisted.ensureDeferred
async def test_bursts_leave_other_sockets_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        wire = pair.wires[0]
        wire.passes = lambda packet: False
        most = 5 * pump.BURSTS
        before = wire.packets

        def endless(now: float) -> list[bytes]:
            return [b"x"] if wire.packets < before + most else []

        monkeypatch.setattr(association_of(pair.one), "transmit", endless)
        pump_of(pair.one).flush()
        assert wire.packets == before + pump.BURSTS
        await until(lambda: wire.packets == before + most, "the others")
