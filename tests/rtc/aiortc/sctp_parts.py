"""Two SCTP associations back to back, over a DTLS that is none, for tests to look at and to lose packets of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from aiortc.rtcsctptransport import Chunk, DataChunk, ForwardTsnChunk, parse_packet

from rtunnel.rtc.aiortc.bridge import adopt_python_logging
from rtunnel.rtc.aiortc.channel import Channel
from rtunnel.rtc.aiortc.sctp import Association
from tests.reverse.net import turns, until

FIRST, LAST, UNORDERED = 2, 1, 4
DCEP, STRING, BINARY = 50, 51, 53
DATA, SACK, RECONFIG = 0, 3, 130


class Dtls:
    """What an association sends through. It arrives at the other one in the loop's next turn.

    :ivar passes: whether a packet arrives.
    :ivar packets: how many were sent.
    """

    state = "connected"

    def __init__(self, role: str) -> None:
        self._role = role
        self.other: Dtls
        self.receiver: Any = None
        self.passes: Callable[[bytes], bool] = lambda packet: True
        self.packets = 0
        self._arriving: set[asyncio.Future[None]] = set()

    def _register_data_receiver(self, receiver: Any) -> None:
        self.receiver = receiver

    def _unregister_data_receiver(self, receiver: Any) -> None:
        self.receiver = None

    async def _send_data(self, data: bytes) -> None:
        if self.state != "connected":
            raise ConnectionError
        assert len(data) <= 1400, "it does not fit into a packet"
        self.packets += 1
        if self.passes(data):
            self.other.arrives(data)

    def arrives(self, data: bytes) -> None:
        if self.receiver is not None:
            arriving = asyncio.ensure_future(self.receiver._handle_data(data))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)


class ChannelTold:
    """The user of a channel: writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bytes] | str] = []
        self.on_message: Callable[[bytes], None] = lambda data: None

    def channel_opened(self) -> None:
        self.told.append("opened")

    def message_received(self, data: bytes) -> None:
        self.told.append(("binary", data))
        self.on_message(data)

    def text_received(self, text: bytes) -> None:
        self.told.append(("text", text))

    def channel_closed(self) -> None:
        self.told.append("closed")

    @property
    def received(self) -> bytes:
        return b"".join(item[1] for item in self.told if isinstance(item, tuple))


class User:
    """The user of an association."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.channels: list[Channel] = []
        self.users: list[ChannelTold] = []
        self.on_room: Callable[[], None] = lambda: None

    def association_up(self) -> None:
        self.told.append("up")

    def association_down(self) -> None:
        self.told.append("down")

    def association_broken(self, reason: str) -> None:
        self.told.append(f"broken: {reason}")

    def channel_arrived(self, channel: Channel) -> None:
        self.channels.append(channel)
        self.users.append(ChannelTold())
        channel.use(self.users[-1])

    def has_room(self) -> None:
        self.on_room()

    @property
    def broken(self) -> bool:
        return any(line.startswith("broken") for line in self.told)


class Pair:
    """Two associations; the first is the DTLS client, and opens channels with even numbers."""

    def __init__(self, max_channels: int = 200) -> None:
        adopt_python_logging()
        self.users = User(), User()
        self.wires = Dtls("client"), Dtls("server")
        self.wires[0].other, self.wires[1].other = self.wires[1], self.wires[0]
        self.one, self.two = (
            Association(cast(Any, wire), user, max_channels) for wire, user in zip(self.wires, self.users, strict=True)
        )

    async def connect(self) -> Pair:
        for end in (self.one, self.two):
            await end.start_with(262144, 5000)
        await until(lambda: all(user.told == ["up"] for user in self.users), "two associations")
        return self

    async def open(self, *, reliable: bool = True, label: str = "tcp-x") -> tuple[Channel, ChannelTold, ChannelTold]:
        """A channel of the first end; its users at both."""
        user, count = ChannelTold(), len(self.users[1].users)
        channel = self.one.open_channel(label, "", reliable)
        channel.use(user)
        await until(lambda: channel.is_open and len(self.users[1].users) > count, "a channel")
        return channel, user, self.users[1].users[-1]

    def close(self) -> None:
        """End both, and see that neither leaves a timer."""
        for end in (self.one, self.two):
            end.drop()
        for end in (self.one, self.two):
            handles = end._t1_handle, end._t2_handle, end._t3_handle, end._reconfig_handle, end._sack_timer
            assert handles == (None,) * 5
            assert end._queue.take(streams=True) is None
            assert not end._data_channels


class Hostile:
    """The first end of a pair, spoken by hand once it is up."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.end = pair.one
        self.victim = pair.two
        self.user = pair.users[1]
        self._sequence: dict[int, int] = {}

    async def put(self, chunk: Chunk) -> None:
        await self.end._send_chunk(chunk)

    async def put_raw(self, *chunks: bytes) -> None:
        """One packet of these chunks."""
        await self.end._send_chunk(cast(Chunk, RawChunks(b"".join(chunks))))

    def data(self, stream: int, kind: int, payload: bytes, flags: int = FIRST | LAST, tsn: int | None = None) -> Any:
        """A DATA chunk with the next numbers."""
        chunk = DataChunk(flags)
        if tsn is None:
            tsn, self.end._local_tsn = self.end._local_tsn, (self.end._local_tsn + 1) % 2**32
        sequence = self._sequence.get(stream, 0)
        if flags & LAST and not flags & UNORDERED:
            self._sequence[stream] = (sequence + 1) % 65536
        chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.protocol = tsn, stream, sequence, kind
        chunk.user_data = payload
        chunk._sent_count = 1
        return chunk

    def begin_anew(self, stream: int) -> None:
        """Count the messages on *stream* from 0 again: it was reset."""
        self._sequence.pop(stream, None)

    async def settle(self) -> None:
        await turns(5)


class RawChunks:
    """Bytes in a chunk's place."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data


def kinds(packet: bytes) -> list[int]:
    """The types of a packet's chunks."""
    return [chunk.type for chunk in parse_packet(packet)[3]]


@contextmanager
def ended(pair: Pair) -> Iterator[Pair]:
    """The pair ends with the test."""
    try:
        yield pair
    finally:
        pair.close()


def packed(chunks: Iterable[Chunk | bytes], each: int) -> list[bytes]:
    """The bodies of packets with so many of these chunks."""
    packed = list(map(bytes, chunks))
    return [b"".join(packed[at : at + each]) for at in range(0, len(packed), each)]


def forward(tsn: int, streams: Iterable[tuple[int, int]] = ()) -> ForwardTsnChunk:
    chunk = ForwardTsnChunk()
    chunk.cumulative_tsn, chunk.streams = tsn % 2**32, list(streams)
    return chunk
