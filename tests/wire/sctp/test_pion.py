"""Pion: what it sent in an association with ours is taken again, and answered, as it was.

``tests/vectors/pion-sctp.json`` was recorded with pion/sctp 1.12.0 and pion/datachannel 1.6.3, which pion/webrtc 4.2.26
uses, and as that sets them up: an MTU of 1,191 bytes, both ends begin. A program in Go had such an association over
UDP on loopback, and did what lines on its standard input said: open a channel (datachannel.Dial), send, close, abort,
shut down. At the other end was ``OurEnd``, with the seed and the limits below. Between the two a script delayed each
packet by 10 ms each way and noted down, with the time, what it told either end to do and what came from Pion.
Each step waited until all that had to arrive had arrived.

Two were kept: one with Pion's own defaults (I-DATA, no zero checksum) that Pion ends by ABORT, as pion/webrtc does; and
one without I-DATA, with zero checksum, that it ends by SHUTDOWN. In both, in this order:

- channels 0 (Pion's) and 1 (ours), ordered; messages of 1, 1,300, and on channel 1 16,384 bytes, each way;
- channels 2 to 5, unordered, or unordered and not retransmitted; two messages each way on each;
- channels 6 to 11, with a message of 1,400 bytes on each from who opens it, and one of 300 back;
- five messages of 700 bytes on channel 1, then on 0: the script drops the packet with the second one, once;
- four of these on channel 5, then on 4, which are not retransmitted: the same, so that the second one never arrives;
- closes: channel 0 by Pion and 1 by us behind messages, 6 and 7 by both at once, 2 and 8 by Pion, 3 and 9 by us;
- streams 0 and 7 once more with new channels.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtunnel.wire.sctp import chunks
from rtunnel.wire.sctp.chunks import BEGIN, END, UNORDERED, Sack
from rtunnel.wire.sctp.codec import (
    DATA_BODY,
    I_DATA_BODY,
    decode_forward_tsn,
    decode_i_forward_tsn,
    decode_init,
    decode_sack,
    parameters_of,
)
from rtunnel.wire.sctp.events import Down, ResetDone, StreamsReset, Up
from rtunnel.wire.sctp.reset import OUTGOING_RESET, PERFORMED, RESPONSE
from tests.wire.sctp.by_hand import DCEP, kinds, values
from tests.wire.sctp.packets import chunks_of
from tests.wire.sctp.pion_parts import OurEnd, text

RECORDINGS = json.loads((Path(__file__).parents[2] / "vectors" / "pion-sctp.json").read_text("utf-8"))["recordings"]
SEED = 1
#: The first bytes of the messages that were lost for good.
OURS_LOST, PIONS_LOST = b"0721 ", b"0821 "
#: Channels that were closed, in the order of their numbers.
CLOSED = [0, 1, 2, 3, 6, 7, 8, 9]
#: The longest time for which an acknowledgement may be delayed, in seconds (RFC 9260, section 6.2).
LONGEST_DELAY = 0.2

Messages = dict[int, list[tuple[int, bytes]]]


class Received:
    """What an end that was sent packets has received, worked out from nothing but their TSNs.

    :ivar data: the chunks, by their TSN counted from the first: flags, stream, number, identifier, payload.
    :ivar repeated: those that came again.
    """

    def __init__(self, first_tsn: int) -> None:
        self._first = first_tsn
        self._cumulative = -1
        self._come: set[int] = set()
        self.data: dict[int, tuple[int, int, int, int, bytes]] = {}
        self.repeated: list[int] = []

    def take(self, packet: bytes) -> bool:
        """Return whether there is something in it to acknowledge."""
        due = False
        for kind, flags, begin, end in chunks_of(packet):
            body = packet[begin:end]
            if kind == chunks.DATA:
                tsn, stream, number, ppid = DATA_BODY.unpack_from(body)
                self._note(tsn, (flags, stream, number, ppid, body[DATA_BODY.size :]))
            elif kind == chunks.I_DATA:
                tsn, stream, _, number, ppid = I_DATA_BODY.unpack_from(body)
                self._note(tsn, (flags, stream, number, ppid, body[I_DATA_BODY.size :]))
            elif kind == chunks.FORWARD_TSN:
                self._cumulative = max(self._cumulative, self._count(decode_forward_tsn(body)[0]))
            elif kind == chunks.I_FORWARD_TSN:
                self._cumulative = max(self._cumulative, self._count(decode_i_forward_tsn(body)[0]))
            else:
                continue
            due = True
        while self._cumulative + 1 in self._come:
            self._cumulative += 1
        return due

    def _count(self, tsn: int) -> int:
        return (tsn - self._first) % 2**32

    def _note(self, tsn: int, chunk: tuple[int, int, int, int, bytes]) -> None:
        count = self._count(tsn)
        if count in self.data:
            self.repeated.append(count)
        self._come.add(count)
        self.data[count] = chunk

    @property
    def sack(self) -> tuple[int, list[tuple[int, int]]]:
        """What a SACK says now: the cumulative TSN, and gaps."""
        gaps: list[tuple[int, int]] = []
        for count in sorted(each - self._cumulative for each in self._come if each > self._cumulative):
            if gaps and gaps[-1][1] == count - 1:
                gaps[-1] = gaps[-1][0], count
            else:
                gaps.append((count, count))
        return (self._first + self._cumulative) % 2**32, gaps

    def messages(self) -> Messages:
        """The messages, but those of DCEP, by streams."""
        found: Messages = defaultdict(list)
        parts: dict[tuple[int, int, int], tuple[int, bytes]] = {}
        for count in sorted(self.data):
            flags, stream, number, ppid, payload = self.data[count]
            key = stream, number, flags & UNORDERED
            kind, before = (ppid, b"") if flags & BEGIN else parts[key]
            parts[key] = kind, before + payload
            if flags & END and kind != DCEP:
                found[stream].append(parts.pop(key))
        return found


class Replay:
    """Our end, which is sent a recording.

    :ivar ours: what it sent, as Pion would have received it if nothing had been lost.
    :ivar sacks: each SACK, and what it had to say.
    :ivar late: for how long an acknowledgement was due, at most, in seconds.
    :ivar told: what Pion was told to do.
    :ivar done: what ours was.
    """

    def __init__(self, recording: Any) -> None:
        self.zero_checksum, self.interleaved = recording["zero_checksum"], recording["interleaved"]
        self.end = OurEnd(SEED, 0.0)
        self.packets: list[bytes] = []
        self.sacks: list[tuple[Sack, tuple[int, list[tuple[int, int]]]]] = []
        self.late = 0.0
        self.told: list[Any] = []
        self.done: list[Any] = []
        self._due_since: float | None = None
        steps = recording["steps"]
        arrived = [b64decode(packet) for _, what, packets in steps if what == "take" for packet in packets]
        self.pions = Received(decode_init(next(values(arrived, chunks.INIT))).tsn)
        for at, what, arguments in steps:
            self._pass_time(at)
            if what == "take":
                self._take([b64decode(packet) for packet in arguments], at)
            elif what == "do":
                self.done.append(arguments)
                self.end.do(arguments, at)
            else:
                self.told.append(arguments)
            self._hear(at)
        self._pass_time(at + 5)
        self.ours = Received(decode_init(next(values(self.sent, chunks.INIT))).tsn)
        for packet in self.sent:
            self.ours.take(packet)

    @property
    def sent(self) -> list[bytes]:
        return [packet for _, packet in self.end.sent]

    def _take(self, packets: list[bytes], now: float) -> None:
        self.packets += packets
        for packet in packets:
            if self.pions.take(packet) and self._due_since is None:
                self._due_since = now
        self.end.receive(packets, now)

    def _hear(self, now: float) -> None:
        for body in values(self.end.transmit(now), chunks.SACK):
            self.sacks.append((decode_sack(body), self.pions.sack))
            if self._due_since is not None:
                self.late = max(self.late, now - self._due_since)
                self._due_since = None

    def _pass_time(self, until: float) -> None:
        while (due := self.end.association.next_time()) is not None and due < until:
            self._hear(due)

    def events(self, kind: type) -> list[Any]:
        return [event for _, event in self.end.events if isinstance(event, kind)]


def commanded(commands: list[Any]) -> Messages:
    """The messages that an end was told to send."""
    found: Messages = defaultdict(list)
    for name, *arguments in commands:
        if name == "send":
            stream, size, seed, kind = arguments
            found[stream].append((kind, text(size, seed)))
    return found


def without(messages: Messages, beginning: bytes) -> Messages:
    """All messages but one."""
    found = {stream: [each for each in some if not each[1].startswith(beginning)] for stream, some in messages.items()}
    assert sum(map(len, found.values())) == sum(map(len, messages.values())) - 1
    return found


def re_config(packets: list[bytes], kind: int) -> Iterator[bytes]:
    """The parameters of a type in RE-CONFIG chunks."""
    for body in values(packets, chunks.RE_CONFIG):
        yield from (content for found, content in parameters_of(body) if found == kind)


@pytest.fixture(scope="module", params=RECORDINGS, ids=["I-DATA", "DATA and zero checksum"])
def replay(request: pytest.FixtureRequest) -> Replay:
    return Replay(request.param)


def test_both_begin(replay: Replay) -> None:
    assert [kinds(packet) for packet in replay.sent[:4]] == [
        [chunks.INIT],
        [chunks.INIT_ACK],
        [chunks.COOKIE_ECHO],
        [chunks.COOKIE_ACK],
    ]
    assert replay.events(Up) == [Up()]
    assert replay.end.association.interleaved == replay.interleaved


def test_checksums_are_left_out_only_if_pion_takes_that(replay: Replay) -> None:
    assert {packet[8:12] == bytes(4) for packet in replay.sent[4:]} == {replay.zero_checksum}
    assert {packet[8:12] == bytes(4) for packet in replay.packets[4:]} == {True}


def test_all_that_pion_sent_is_delivered(replay: Replay) -> None:
    delivered: Messages = defaultdict(list)
    for _, stream, kind, data in replay.end.messages:
        if kind != DCEP:
            delivered[stream].append((kind, data))
    assert delivered == without(commanded(replay.told), PIONS_LOST)
    assert replay.pions.messages() == delivered


def test_all_that_we_send_can_be_put_together(replay: Replay) -> None:
    assert replay.ours.messages() == commanded(replay.done)


def test_what_was_lost_is_sent_again_unless_the_channel_forbids_it(replay: Replay) -> None:
    """Nothing else is."""
    assert [replay.ours.data[count][4][:5] for count in replay.ours.repeated] == [b"0701 "]
    lost = next(count for count, chunk in replay.ours.data.items() if chunk[4].startswith(OURS_LOST))
    kind = chunks.I_FORWARD_TSN if replay.interleaved else chunks.FORWARD_TSN
    forwarded = {int.from_bytes(body[:4]) for body in values(replay.sent, kind)}
    assert forwarded == {(decode_init(next(values(replay.sent, chunks.INIT))).tsn + lost) % 2**32}
    assert replay.end.association.kept == 0


def test_acknowledgements_say_what_had_come(replay: Replay) -> None:
    for sack, expected in replay.sacks:
        assert (sack.cumulative, list(sack.gaps)) == expected
        assert not sack.duplicates
    assert replay.sacks[-1][1] == replay.pions.sack
    assert any(sack.gaps for sack, _ in replay.sacks)
    assert 0 < replay.late <= LONGEST_DELAY


def test_resets_of_both_ends_are_performed(replay: Replay) -> None:
    asked = {content[:4] for content in re_config(replay.packets, OUTGOING_RESET)}
    answers = [(content[:4], int.from_bytes(content[4:8])) for content in re_config(replay.sent, RESPONSE)]
    assert {number for number, _ in answers} == asked
    assert {result for _, result in answers} == {PERFORMED}
    assert sorted(stream for event in replay.events(StreamsReset) for stream in event.streams) == CLOSED
    assert sorted(stream for event in replay.events(ResetDone) for stream in event.streams) == CLOSED
    numbers = [int.from_bytes(content[:4]) for content in re_config(replay.sent, OUTGOING_RESET)]
    assert numbers == sorted(set(numbers))


def test_streams_are_used_again(replay: Replay) -> None:
    for stream in (0, 7):
        starts = [chunk[2] for _, chunk in sorted(replay.ours.data.items()) if chunk[1] == stream and chunk[0] & BEGIN]
        assert starts.count(0) == 2


def test_the_end(replay: Replay) -> None:
    assert replay.events(Down) == [Down("")]
    how = replay.told[-1]
    assert (how == ["shutdown"]) == (kinds(replay.sent[-1]) == [chunks.SHUTDOWN_ACK])
    assert not replay.end.association.is_up
