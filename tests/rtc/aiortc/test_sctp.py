"""Associations and their channels, between two ends that mean well."""

from __future__ import annotations

import struct
from functools import partial

import pytest_twisted

from tests.reverse.net import turns, until
from tests.rtc.aiortc.sctp_parts import DATA, RECONFIG, ChannelTold, Pair, ended, kinds


@pytest_twisted.ensureDeferred
async def test_messages_of_all_kinds_arrive() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, user, other = await pair.open()
        back = pair.users[1].channels[0]
        assert (back.label, back.protocol, back.reliable, back.is_open) == ("tcp-x", "", True, True)
        channel.send(b"bytes")
        channel.send(b"")
        channel.send_text("text ü")
        channel.send_text("")
        channel.send(bytes(100_000))
        back.send(b"answer")
        await until(lambda: len(other.told) == 5 and len(user.told) == 2, "messages")
        assert other.told == [
            ("binary", b"bytes"),
            ("binary", b""),
            ("text", "text ü".encode()),
            ("text", b""),
            ("binary", bytes(100_000)),
        ]
        assert user.told == ["opened", ("binary", b"answer")]


@pytest_twisted.ensureDeferred
async def test_nothing_is_sent_on_a_channel_that_is_not_open() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel = pair.one.open_channel("tcp-x", "", reliable=True)
        channel.send(b"too early")
        await until(lambda: channel.is_open, "a channel")
        channel.close()
        channel.send(b"too late")
        channel.close()
        await until(lambda: pair.users[1].users[0].told, "an end")
        assert pair.users[1].users[0].told == ["closed"]
        assert pair.one.buffered == 0


@pytest_twisted.ensureDeferred
async def test_an_unreliable_channel_is_unreliable_at_both_ends() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, _, _ = await pair.open(reliable=False)
        assert not channel.reliable
        assert not pair.users[1].channels[0].reliable


@pytest_twisted.ensureDeferred
async def test_a_close_goes_behind_what_was_sent_and_is_told_to_both() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, user, other = await pair.open()
        for _ in range(30):
            channel.send(bytes(16384))
        channel.close()
        await until(lambda: "closed" in user.told and "closed" in other.told, "the end")
        assert len(other.received) == 30 * 16384
        assert other.told[-1] == "closed"
        assert other.told.count("closed") == user.told.count("closed") == 1


@pytest_twisted.ensureDeferred
async def test_a_close_of_one_channel_does_not_wait_for_datagrams_of_another() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        flow, _, _ = await pair.open(reliable=False)
        channel, user, _ = await pair.open()

        # There is always another datagram.
        def passes(packet: bytes) -> bool:
            flow.send(b"x" * 1000)
            return True

        pair.wires[0].passes = passes
        for _ in range(20):
            flow.send(b"x" * 1000)
        channel.close()
        await until(lambda: "closed" in user.told, "the end of the channel")
        assert pair.one._queue.streams_of() == {flow.id}
        pair.wires[0].passes = lambda packet: True


@pytest_twisted.ensureDeferred
async def test_a_stream_is_reset_once_all_that_was_sent_on_it_is_acknowledged() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, user, other = await pair.open()
        unanswered: list[int] = []

        def passes(packet: bytes) -> bool:
            if RECONFIG in kinds(packet):
                unanswered.append(len(pair.one._sent_queue) + len(pair.one._outbound_queue))
            return True

        pair.wires[0].passes = passes
        channel.send(bytes(100_000))
        channel.close()
        await until(lambda: "closed" in user.told and "closed" in other.told, "the end")
        assert unanswered[0] == 0
        assert len(other.received) == 100_000


@pytest_twisted.ensureDeferred
async def test_the_request_to_reset_a_stream_does_not_wait_for_another_stream() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        busy, busy_user, busy_other = await pair.open()
        quiet, quiet_user, _ = await pair.open()
        requests: list[bytes] = []
        lost = True

        def passes(packet: bytes) -> bool:
            if RECONFIG in kinds(packet):
                requests.append(packet[-4:-2])
            return not (lost and kinds(packet) == [DATA])

        pair.wires[0].passes = passes
        busy.send(b"x")
        busy.close()
        await turns(5)
        quiet.close()
        await until(lambda: requests, "a request")
        assert requests[0] == struct.pack("!H", quiet.id or 0)
        lost = False
        await until(lambda: "closed" in busy_user.told and "closed" in quiet_user.told, "both ends")
        assert busy_other.received == b"x"


def all_told(users: list[ChannelTold], told: list[str]) -> bool:
    return all(user.told == told for user in users)


@pytest_twisted.ensureDeferred
async def test_numbers_of_channels_are_used_again() -> None:
    with ended(Pair(max_channels=100)) as pair:
        await pair.connect()
        seen = set()
        for _ in range(15):
            users = [ChannelTold() for _ in range(90)]
            channels = [pair.one.open_channel("tcp-x", "", reliable=True) for _ in users]
            for channel, user in zip(channels, users, strict=True):
                channel.use(user)
            await until(partial(all_told, users, ["opened"]), "channels")
            for channel in channels:
                seen.add(channel.id)
                channel.close()
            await until(partial(all_told, users, ["opened", "closed"]), "their ends")
        assert len(seen) <= 100
        assert pair.users[0].told == pair.users[1].told == ["up"]
        await until(lambda: not pair.two._data_channels, "both ends to forget them")
        assert len(pair.two._inbound_streams) <= 100


@pytest_twisted.ensureDeferred
async def test_a_channel_is_opened_anew_though_the_answer_to_the_last_reset_is_lost() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, user, other = await pair.open()
        back = pair.users[1].channels[0]
        back.send(b"so that its numbers are not at their beginning")
        await until(lambda: user.received, "a message")
        # The second end has asked and been answered; the first one's answer to it is what is lost.
        lost: list[bytes] = []

        def passes(packet: bytes) -> bool:
            if kinds(packet) == [RECONFIG] and packet[17] == 16 and not lost:
                lost.append(packet)
                return False
            return True

        pair.wires[0].passes = passes
        channel.close()
        back.close()
        await until(lambda: "closed" in user.told, "the end of the first channel")
        assert lost
        assert "closed" not in other.told
        again, user_again, other_again = await pair.open()
        assert again.id == channel.id
        assert other.told[-1] == "closed"
        again.send(b"there")
        pair.users[1].channels[-1].send(b"and back")
        await until(lambda: other_again.received and user_again.received, "messages")
        await turns(5)
        assert pair.users[0].told == pair.users[1].told == ["up"]


@pytest_twisted.ensureDeferred
async def test_datagrams_overtake_what_waits_on_reliable_channels() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        bulk, _, other_bulk = await pair.open()
        flow, _, other_flow = await pair.open(reliable=False)
        order: list[str] = []
        other_bulk.on_message = lambda data: order.append("bulk")
        other_flow.on_message = lambda data: order.append("datagram")
        for _ in range(50):
            bulk.send(bytes(16384))
        await until(lambda: order, "bulk")
        begun = 50 - pair.one._queue.stream_bytes // 16384
        flow.send(b"urgent")
        await until(lambda: "datagram" in order, "the datagram")
        # Behind the messages that were begun, and no other.
        assert begun < 50
        assert order.index("datagram") <= begun
