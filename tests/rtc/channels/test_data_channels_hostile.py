"""Whatever a peer sends ends as nothing, as a channel's event, or as the one end of the association.

The peer of these tests has come through DTLS, so it can send any SCTP packet.
"""

from __future__ import annotations

import struct

import pytest
import pytest_twisted

from rtunnel.rtc.channels.channel import Channel
from rtunnel.wire.sctp import chunks
from rtunnel.wire.sctp.chunks import ABORT, BEGIN, END, RE_CONFIG, UNORDERED
from rtunnel.wire.sctp.codec import chunk, parameter
from rtunnel.wire.webrtc.channel_open import OPEN
from tests.reverse.net import turns, until
from tests.rtc.channels.channels_parts import (
    ChannelTold,
    HostileChannels,
    association_of,
    hostile,
    is_acknowledged,
    pump_of,
)
from tests.wire.sctp.by_hand import BINARY, DCEP, STRING, WHOLE, kinds, values


def opening(
    label: bytes = b"tcp-x", protocol: bytes = b"", kind: int = 0, lengths: tuple[int, int] | None = None
) -> bytes:
    sizes = lengths or (len(label), len(protocol))
    return struct.pack("!BBHLHH", OPEN[0], kind, 0, 0, *sizes) + label + protocol


def requests(peer: HostileChannels) -> list[bytes]:
    """The bodies of the victim's requests to reset streams."""
    return [body[4:] for body in values(peer.sent, RE_CONFIG) if body[:2] == b"\0\x0d"]


def answer(peer: HostileChannels, result: int = 1) -> bytes:
    """The answer to the victim's last request."""
    return chunk(RE_CONFIG, parameter(16, requests(peer)[-1][:4] + struct.pack("!L", result)))


BAD_OPENINGS = {
    "empty": b"\x03",
    "cut off in its header": opening()[:11],
    "label longer than the message": opening(b"ab", lengths=(3, 0)),
    "protocol longer than the message": opening(b"ab", b"cd", lengths=(2, 3)),
    "lengths that are absurd": opening(lengths=(65535, 65535)),
    "a label that is no UTF-8": opening(b"\xff\xfe"),
    "a protocol that is no UTF-8": opening(b"x", b"\xc3"),
    "a label that is too long": opening(b"x" * 1025),
    "a protocol that is too long": opening(b"x", b"y" * 1025),
}


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("message", BAD_OPENINGS.values(), ids=BAD_OPENINGS.keys())
@pytest_twisted.ensureDeferred
async def test_an_open_that_is_malformed_closes_that_channel(message: bytes, interleaved: bool) -> None:
    with hostile(interleaved=interleaved) as peer:
        for begin in range(0, len(message), 1000):
            flags = (BEGIN if not begin else 0) | (END if begin + 1000 >= len(message) else 0)
            peer.put(peer.data(4, DCEP, message[begin : begin + 1000], flags))
        peer.put(peer.data(4, BINARY, b"for nobody"))
        await until(lambda: requests(peer), "the reset of its stream")
        assert requests(peer)[0][12:] == struct.pack("!H", 4)
        assert not peer.user.channels
        peer.still_works()
        # The peer closes its direction, too, as it should. Then the stream can be used again.
        peer.put(answer(peer))
        peer.reset(4)
        assert set(peer.victim._channels) == {100}
        peer.begin_anew(4)
        peer.still_works(stream=4)


@pytest_twisted.ensureDeferred
async def test_names_as_long_as_they_may_be() -> None:
    with hostile() as peer:
        message = opening(b"x" * 1024, "ü".encode() * 512)
        peer.put(peer.data(4, DCEP, message[:1100], BEGIN))
        peer.put(peer.data(4, DCEP, message[1100:], END))
        assert peer.user.channels[0].protocol == "ü" * 512


@pytest_twisted.ensureDeferred
async def test_a_channel_that_is_open_already_is_closed() -> None:
    with hostile() as peer:
        peer.still_works(stream=4)
        peer.open(4)
        assert not peer.user.channels[0].is_open
        peer.still_works()


@pytest_twisted.ensureDeferred
async def test_more_channels_than_there_may_be_are_the_end() -> None:
    with hostile(max_channels=20) as peer:
        for number in range(21):
            peer.open(2 * number)
        assert len(peer.user.told) == 2
        assert peer.user.broken
        assert len(peer.user.channels) == 20
        assert [user.told for user in peer.user.users] == [["closed"]] * 20
        assert kinds(peer.sent[-1]) == [ABORT]


@pytest_twisted.ensureDeferred
async def test_channels_of_both_ends_count_together() -> None:
    with hostile(max_channels=20) as peer:
        for _ in range(10):
            peer.victim.open_channel("tcp-x", "", reliable=True)
        for number in range(10):
            peer.open(2 * number)
        assert peer.user.told == ["up"]
        peer.open(20)
        assert peer.user.broken


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DCEP, b"\x02"),
        (DCEP, b"\x63 unknown"),
        (DCEP, b"\x00"),
        (BINARY, b"for no channel"),
        (STRING, b"\xff"),
        (56, b"\0"),
        (57, b"\0"),
        (52, b"a kind of old"),
        (0xFFFFFFFF, b"x"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_messages_on_a_stream_without_a_channel_are_ignored(kind: int, message: bytes) -> None:
    with hostile() as peer:
        peer.put(peer.data(4, kind, message))
        peer.still_works()


@pytest_twisted.ensureDeferred
async def test_odd_messages_on_a_channel() -> None:
    with hostile() as peer:
        peer.open(4)
        for kind, message in (
            (DCEP, b"\x02"),
            (DCEP, b"\x99"),
            (STRING, b"\xff\xfe no UTF-8"),
            (77, b"x"),
            (56, b"\0"),
        ):
            peer.put(peer.data(4, kind, message))
        assert peer.user.users[0].told == [("text", b"\xff\xfe no UTF-8"), ("text", b"")]
        peer.still_works()


@pytest_twisted.ensureDeferred
async def test_a_channel_behind_the_end_of_the_association_does_not_arrive() -> None:
    with hostile() as peer:
        peer.put(chunk(ABORT), peer.data(4, DCEP, opening()))
        peer.open(6)
        await turns(5)
        assert peer.user.told == ["up", "down"]
        assert not peer.user.channels
        assert pump_of(peer.victim)._timer is None


@pytest_twisted.ensureDeferred
async def test_a_channel_behind_the_break_does_not_arrive() -> None:
    with hostile() as peer:
        peer.put(peer.data(4, BINARY, b""), peer.data(6, DCEP, opening()))
        assert peer.user.broken
        assert not peer.user.channels
        assert kinds(peer.sent[-1]) == [ABORT]


@pytest_twisted.ensureDeferred
async def test_what_came_before_the_end_is_delivered() -> None:
    with hostile() as peer:
        peer.put(peer.data(4, DCEP, opening()), peer.data(4, BINARY, b"x"), chunk(ABORT))
        assert peer.user.told == ["up", "down"]
        assert peer.user.users[0].told == [("binary", b"x"), "closed"]


@pytest_twisted.ensureDeferred
async def test_a_reset_of_streams_that_are_none_is_ignored() -> None:
    with hostile() as peer:
        peer.reset(*range(0, 1000, 2))
        peer.reset(4, again=True)
        peer.still_works()


@pytest_twisted.ensureDeferred
async def test_a_late_copy_of_a_reset_does_not_close_the_next_channel() -> None:
    with hostile() as peer:
        peer.open(4)
        peer.reset(4)
        peer.acknowledge()
        await until(lambda: requests(peer), "the other direction's")
        peer.put(answer(peer))
        assert peer.user.users[0].told == ["closed"]
        peer.begin_anew(4)
        peer.open(4)
        assert peer.user.channels[1].is_open
        peer.reset(4, again=True)
        await peer.settle()
        assert peer.user.channels[1].is_open


@pytest_twisted.ensureDeferred
async def test_a_stream_is_used_anew_in_the_packet_that_confirms_its_reset() -> None:
    """The peer may do so: it has been told of the other direction's reset before."""
    with hostile() as peer:
        peer.open(4)
        peer.acknowledge()
        peer.user.channels[0].close()
        await until(lambda: requests(peer), "a request")
        peer.reset(4)
        peer.begin_anew(4)
        peer.put(answer(peer), peer.data(4, DCEP, opening()), peer.data(4, BINARY, b"anew"))
        assert peer.user.users[0].told == ["closed"]
        assert peer.user.channels[1].is_open
        assert peer.user.users[1].received == b"anew"


@pytest_twisted.ensureDeferred
async def test_a_reset_that_is_refused_closes_the_channel_at_this_end() -> None:
    with hostile() as peer:
        peer.open(4)
        peer.acknowledge()
        peer.user.channels[0].close()
        await until(lambda: requests(peer), "a request")
        peer.put(answer(peer, result=2))
        assert peer.user.users[0].told == ["closed"]
        # The peer has not reset its direction, so no channel of this end may use the stream.
        assert peer.victim._half_reset == {4}
        peer.still_works()


@pytest_twisted.ensureDeferred
async def test_a_window_that_stays_shut_costs_one_message_in_flight() -> None:
    with hostile() as peer:
        peer.open(4)
        await until(lambda: peer.highest >= peer.first_tsn, "an answer")
        peer.acknowledge(window=0)
        await until(lambda: is_acknowledged(peer.victim), "its acknowledgement")
        for _ in range(20):
            peer.user.channels[0].send(bytes(1000))
        count = len(peer.sent)
        await until(lambda: len(peer.sent) > count, "a probe")
        await peer.settle()
        assert peer.victim.buffered == 19_000


@pytest_twisted.ensureDeferred
async def test_a_peer_without_another_stream_gets_no_channel() -> None:
    class Narrow(HostileChannels):
        def shake_hands(self) -> None:
            self.init = chunks.Init(self.tag, 1 << 20, 3, 3, self.tsn)
            super().shake_hands()

    peer = Narrow()
    try:
        told = [ChannelTold() for _ in range(3)]
        for each in told:
            # Streams 1, and no more.
            peer.victim.open_channel("tcp-z", "", reliable=True).use(each)
        channel = peer.victim.open_channel("tcp-z", "", reliable=True)
        assert [one.stream for one in peer.victim._channels.values()] == [1]
        assert channel.state == "closed"
        assert peer.user.told == ["up"]
    finally:
        peer.victim.stop()


@pytest_twisted.ensureDeferred
async def test_channels_of_a_peer_that_resets_nothing_do_not_pile_up_for_ever() -> None:
    with hostile(max_channels=50) as peer:
        for number in range(51):
            peer.open(2 * number)
            peer.user.channels[-1].close()
            if peer.user.broken:
                break
        assert peer.user.broken
        assert number == 50


@pytest.mark.parametrize("flags", [WHOLE, WHOLE | UNORDERED])
@pytest_twisted.ensureDeferred
async def test_nor_do_those_of_a_peer_that_confirms_and_resets_nothing_of_its_own(flags: int) -> None:
    with hostile(max_channels=50) as peer:
        for number in range(60):
            peer.put(peer.data(2 * number, DCEP, opening(), flags))
            if peer.user.broken:
                break
            count = len(requests(peer))
            peer.user.channels[-1].close()
            peer.acknowledge()
            pump_of(peer.victim).flush()
            assert len(requests(peer)) == count + 1
            peer.put(answer(peer))
        assert number == 50


@pytest.mark.parametrize("acknowledges", [True, False])
@pytest_twisted.ensureDeferred
async def test_what_waits_for_a_peer_that_opens_and_resets_over_and_over_is_bounded(acknowledges: bool) -> None:
    with hostile(max_channels=50) as peer:
        waiting = 0
        for number in range(1500):
            stream = 2 * (number % 40)
            peer.begin_anew(stream)
            peer.open(stream)
            peer.put(peer.data(stream, BINARY, b"x"))
            peer.reset(stream)
            if acknowledges:
                peer.acknowledge()
            if not number % 50:
                await turns(1)
            if peer.user.broken:
                break
            scheduler, halves = association_of(peer.victim)._scheduler, association_of(peer.victim)._halves
            assert halves is not None
            queued = len(scheduler._urgent) + len(halves.transmitter.sending._outstanding) + len(halves.resets.waiting)
            waiting = max(waiting, queued + len(peer.victim._half_reset) + len(peer.victim._reset_by_peer))
        assert waiting <= 250
        del peer.sent[:]


@pytest_twisted.ensureDeferred
async def test_nothing_is_said_of_a_channel_once_it_is_over(flush_logged_errors: object) -> None:
    with hostile() as peer:
        peer.open(4)
        channel, user = peer.user.channels[0], peer.user.users[0]
        assert isinstance(channel, Channel)
        peer.put(chunk(ABORT))
        channel.send(b"x")
        channel.send_text("x")
        channel.close()
        late = ChannelTold()
        peer.victim.open_channel("tcp-y", "", reliable=True).use(late)
        peer.victim.hold(5)
        peer.victim.release(5)
        peer.victim.packet_too_big(1000)
        peer.victim.path_changed()
        await turns(5)
        assert user.told == ["closed"]
        assert peer.user.told == ["up", "down"]


@pytest_twisted.ensureDeferred
async def test_a_shutdown_ends_it() -> None:
    with hostile() as peer:
        peer.still_works()
        for _ in range(5):
            peer.put(chunk(chunks.SHUTDOWN, struct.pack("!L", peer.first_tsn)))
        peer.put(chunk(chunks.SHUTDOWN_COMPLETE))
        assert peer.user.told == ["up", "down"]
        assert peer.user.users[-1].told[-1] == "closed"


@pytest_twisted.ensureDeferred
async def test_garbage_is_ignored() -> None:
    with hostile() as peer:
        for size in (0, 1, 11, 12, 15, 16, 100, 1189):
            peer.deliver([(bytes(range(256)) * 5)[:size]])
        peer.still_works()


@pytest_twisted.ensureDeferred
async def test_a_channel_that_gets_no_stream_may_close_another() -> None:
    class Narrow(HostileChannels):
        def shake_hands(self) -> None:
            self.init = chunks.Init(self.tag, 1 << 20, 1, 1, self.tsn)
            self.told = ChannelTold(), ChannelTold()
            first, second = (self.victim.open_channel("tcp-z", "", reliable=True) for _ in self.told)
            first.use(self.told[0])
            second.use(self.told[1])
            self.told[0].channel_closed = second.close  # type: ignore[method-assign]
            super().shake_hands()

    peer = Narrow()
    try:
        assert peer.told[1].told == ["closed"]
    finally:
        peer.victim.stop()


@pytest_twisted.ensureDeferred
async def test_a_user_may_end_all_when_it_is_told_of_a_reset_that_a_new_channel_confirms() -> None:
    with hostile() as peer:
        peer.open(4)
        channel = peer.user.channels[0]
        peer.user.users[0].channel_closed = peer.victim.stop  # type: ignore[method-assign]
        channel.close()
        await peer.settle()
        peer.acknowledge()
        await until(lambda: requests(peer), "a request")
        peer.reset(4)
        peer.begin_anew(4)
        peer.open(4)
        assert len(peer.user.channels) == 1
