"""What a peer of an association says, made of any bytes: what is nearly right, and what is not right at all."""

from __future__ import annotations

from collections.abc import Iterator

from rtunnel.rtc.channels.channel import Channel
from rtunnel.wire.sctp import chunks
from rtunnel.wire.sctp.chunks import Sack
from rtunnel.wire.sctp.codec import chunk, encode_sack
from rtunnel.wire.sctp.events import StreamsReset
from rtunnel.wire.webrtc.channel_open import encode_open
from tests.rtc.channels.channels_parts import HostileChannels, leaves_nothing, pump_of
from tests.wire.sctp.by_hand import BINARY, DCEP, Attack, Hostile, kinds, reset

#: The kinds of steps.
DATA, OPENING, ACKNOWLEDGE, FORWARD, RESET, CHUNK, PACKET, OURS, WAIT = range(9)


def step(kind: int, *what: bytes | int) -> bytes:
    """A step, as :func:`steps_of` reads it."""
    body = b"".join(bytes([each]) if isinstance(each, int) else each for each in what)
    return bytes([kind, len(body)]) + body


def steps_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 2 <= len(data):
        end = at + 2 + data[at + 1]
        yield data[at] % 9, data[at + 2 : end]
        at = end


def say(peer: Hostile, kind: int, what: bytes) -> None:
    """Let the peer say something. Numbers are near to the right ones."""
    head = what[:3].ljust(3, b"\0")
    near = head[1] - 128 if head[1] else 0
    if kind in (DATA, OPENING):
        payload = what[3:] if kind == DATA else what[3:] or encode_open("tcp-x", "", reliable=not head[0] & 4)
        tsn = peer.tsn + near if near else None
        peer.put(peer.data(head[2], BINARY if kind == DATA else DCEP, payload, head[0] & 15, tsn))
    elif kind == ACKNOWLEDGE:
        rest = what[3:]
        gaps = tuple((rest[at], rest[at + 1]) for at in range(0, len(rest) - 1, 2))
        peer.put(encode_sack(Sack(peer.highest + near, head[0] << 10, gaps, (peer.highest,) * (head[2] % 4))))
    elif kind == FORWARD:
        peer.put(peer.forward(peer.tsn + near, [(stream, head[2]) for stream in what[3:]]))
        peer.tsn = max(peer.tsn, peer.tsn + near + 1)
    elif kind == RESET:
        if head[0]:
            peer.reset(*what[3:])
        else:
            peer.put(reset(peer.tsn + near, peer.tsn + head[2] - 128, *what[3:]))
    elif kind == CHUNK:
        peer.put(chunk(head[0], what[2:], head[1]))
    else:
        peer.put(what)


def against_association(data: bytes) -> None:
    """Say all this to an association that is up."""
    peer = Attack(interleaved=bool(data[:1] > b"\x7f"), max_open=20, largest_packet=16_384)
    for kind, what in steps_of(data[1:]):
        if kind == WAIT:
            peer.wait(what[0] / 10 if what else 10)
        elif kind == OURS:
            stream, size = what[0] if what else 1, 100 * len(what)
            if size > 300:
                peer.victim.send(stream, BINARY, bytes(size), size < 600, None if size < 600 else 1, peer.now)
            else:
                peer.victim.reset(stream)
            peer.hear()
        else:
            say(peer, kind, what)
    peer.wait(30)
    assert sum(not isinstance(event, StreamsReset) for event in peer.victim.events) < 20
    if peer.why:
        assert peer.why.isprintable()
        assert kinds(peer.sent[-1]) == [chunks.ABORT]
        assert peer.victim.buffered == 0
    assert peer.victim.kept < 8 << 20
    assert all(message for _, _, message in peer.messages)


async def against_channels(data: bytes) -> None:
    """Say all this to an end of channels that is up."""
    peer = HostileChannels(8, interleaved=bool(data[:1] > b"\x7f"))
    ours: list[Channel] = []
    for kind, what in steps_of(data[1:]):
        if kind in (WAIT, OURS):
            channels = ours + peer.user.channels
            if len(what) < 2 or not channels:
                # At most as many as there may be.
                ours += [peer.victim.open_channel("tcp-y", "", reliable=bool(what))] * (len(channels) < 8)
            elif what[0] & 1:
                channels[what[1] % len(channels)].close()
            else:
                channels[what[1] % len(channels)].send(what[2:] * 100)
            pump_of(peer.victim).flush()
        else:
            say(peer, kind, what)
    assert peer.user.told[:1] == ["up"]
    assert len(peer.user.told) <= 2
    assert peer.user.told[-1].isprintable()
    for user in peer.user.users:
        assert user.told.count("closed") <= 1
        assert "closed" not in user.told[:-1]
    leaves_nothing(peer.victim)
