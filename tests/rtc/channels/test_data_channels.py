"""Channels between two ends that mean well."""

from __future__ import annotations

import struct
from functools import partial

import pytest
import pytest_twisted

from rtunnel.wire.sctp.chunks import DATA, I_DATA, RE_CONFIG
from tests.reverse.net import turns, until
from tests.rtc.channels.channels_parts import ChannelTold, Pair, association_of, ended, is_acknowledged
from tests.wire.sctp.by_hand import kinds, values

#: The parameters of RE-CONFIG: a request, and its answer.
REQUEST, ANSWER = 13, 16


@pytest.mark.parametrize("largest", [1188, 16384])
@pytest_twisted.ensureDeferred
async def test_messages_of_all_kinds_arrive(largest: int) -> None:
    with ended(Pair(largest=largest)) as pair:
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
async def test_messages_go_behind_the_one_that_opens_their_channel() -> None:
    """They cost no round trip more (RFC 8832, section 6)."""
    with ended(Pair()) as pair:
        await pair.connect()
        channel = pair.one.open_channel("tcp-x", "", reliable=True)
        channel.send(b"early")
        channel.send_text("bird")
        assert not channel.is_open
        channel.close()
        await until(lambda: pair.users[1].users and len(pair.users[1].users[0].told) == 3, "an end")
        assert pair.users[1].users[0].told == [("binary", b"early"), ("text", b"bird"), "closed"]


@pytest_twisted.ensureDeferred
async def test_nothing_is_sent_on_a_channel_that_is_not_open() -> None:
    """Those of an unreliable one may arrive before the one that opens it, if that is lost."""
    with ended(Pair()) as pair:
        await pair.connect()
        channel = pair.one.open_channel("udp-x", "", reliable=False)
        channel.send(b"too early")
        await until(lambda: channel.is_open, "a channel")
        channel.close()
        channel.send(b"too late")
        channel.close()
        await until(lambda: pair.users[1].users[0].told, "an end")
        assert pair.users[1].users[0].told == ["closed"]
        assert pair.one.buffered == 0


@pytest_twisted.ensureDeferred
async def test_a_channel_that_is_opened_before_the_association_is_up() -> None:
    with ended(Pair()) as pair:
        early, closed = ChannelTold(), ChannelTold()
        pair.one.open_channel("tcp-x", "web", reliable=True).use(early)
        given_up = pair.one.open_channel("tcp-y", "", reliable=True)
        given_up.use(closed)
        given_up.close()
        assert closed.told == ["closed"]
        await pair.connect()
        await until(lambda: early.told, "a channel")
        assert early.told == ["opened"]
        assert [(channel.label, channel.protocol) for channel in pair.users[1].channels] == [("tcp-x", "web")]


@pytest_twisted.ensureDeferred
async def test_both_ends_open_channels_at_once() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        users = [ChannelTold() for _ in range(20)]
        for end in (pair.one, pair.two):
            for user in users[end is pair.two :: 2]:
                end.open_channel("tcp-x", "", reliable=True).use(user)
        await until(partial(all_told, users, ["opened"]), "channels")
        assert [len(user.channels) for user in pair.users] == [10, 10]
        streams = [[channel.stream for channel in user.channels] for user in pair.users]
        assert streams == [list(range(1, 20, 2)), list(range(0, 20, 2))]


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
        assert association_of(pair.one)._scheduler.has_some
        pair.wires[0].passes = lambda packet: True


@pytest_twisted.ensureDeferred
async def test_a_stream_is_reset_once_all_that_was_sent_on_it_is_acknowledged() -> None:
    with ended(Pair()) as pair:
        await pair.connect()
        channel, user, other = await pair.open()
        acknowledged: list[bool] = []

        def passes(packet: bytes) -> bool:
            if RE_CONFIG in kinds(packet):
                acknowledged.append(is_acknowledged(pair.one))
            return True

        pair.wires[0].passes = passes
        channel.send(bytes(100_000))
        channel.close()
        await until(lambda: "closed" in user.told and "closed" in other.told, "the end")
        assert acknowledged[0]
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
            requests.extend(values([packet], RE_CONFIG))
            return not lost or {DATA, I_DATA}.isdisjoint(kinds(packet))

        pair.wires[0].passes = passes
        busy.send(b"x")
        busy.close()
        await turns(5)
        quiet.close()
        await until(lambda: requests, "a request")
        assert requests[0][16:] == struct.pack("!H", quiet.stream or 0)
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
                seen.add(channel.stream)
                channel.close()
            await until(partial(all_told, users, ["opened", "closed"]), "their ends")
        assert len(seen) <= 100
        assert pair.users[0].told == pair.users[1].told == ["up"]
        await until(lambda: not pair.two._channels and not pair.one._half_reset, "both ends to forget them")
        for end in (pair.one, pair.two):
            halves = association_of(end)._halves
            assert halves is not None
            assert not halves.inbound._reassembly._streams
            assert not association_of(end)._scheduler._numbers
            assert not halves.transmitter.sending._last_of


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
            answers = [body for body in values([packet], RE_CONFIG) if body[:2] == struct.pack("!H", ANSWER)]
            if answers and not lost:
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
        assert again.stream == channel.stream
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
        for _ in range(200):
            bulk.send(bytes(16384))
        await until(lambda: order, "bulk")
        begun = 200 - pair.one.buffered // 16384
        flow.send(b"urgent")
        await until(lambda: "datagram" in order, "the datagram")
        # Behind the messages that were begun, and no other.
        assert begun < 200
        assert order.index("datagram") <= begun
