"""The channels of two ends over a path without DTLS, for tests to look at and to lose packets of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rtunnel.rtc.channels.channel import Channel
from rtunnel.rtc.channels.data_channels import DataChannels
from rtunnel.rtc.channels.pump import Pump
from rtunnel.wire.sctp.association import Association
from rtunnel.wire.webrtc.channel_open import encode_open
from tests.reverse.net import turns, until
from tests.wire.sctp.by_hand import BINARY, DCEP, PORT, Hostile


class Wire:
    """What channels send through. It arrives at the other end in the loop's next turn.

    :ivar passes: whether a packet arrives.
    :ivar packets: how many were sent.
    :ivar arrive: takes packets to the other end.
    """

    overhead = 37

    def __init__(self, largest: int = 1188) -> None:
        self.largest = largest
        self.passes: Callable[[bytes], bool] = lambda packet: True
        self.packets = 0
        self.arrive: Callable[[list[bytes]], None] = lambda packets: None

    def send(self, packets: list[bytes], *, fragments: bool = False) -> None:
        self.packets += len(packets)
        assert fragments or all(len(packet) <= self.largest for packet in packets), "it does not fit into a packet"
        passing = [packet for packet in packets if self.passes(packet)]
        if passing:
            asyncio.get_running_loop().call_soon(self.arrive, passing)

    def close(self) -> None:
        raise AssertionError("channels do not close their path")


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
    """The user of an end's channels. Like a peer connection, it drops them when the association is over."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.channels: list[Channel] = []
        self.users: list[ChannelTold] = []
        self.on_room: Callable[[], None] = lambda: None
        self.end: DataChannels

    def association_up(self) -> None:
        self.told.append("up")

    def association_down(self) -> None:
        self.told.append("down")
        self.end.drop()

    def association_broken(self, reason: str) -> None:
        self.told.append(f"broken: {reason}")
        self.end.drop()

    def channel_arrived(self, channel: Channel) -> None:
        self.channels.append(channel)
        self.users.append(ChannelTold())
        channel.use(self.users[-1])

    def has_room(self) -> None:
        self.on_room()

    @property
    def broken(self) -> bool:
        return any(line.startswith("broken") for line in self.told)


def end_with(user: User, max_channels: int) -> DataChannels:
    user.end = DataChannels(user, max_channels)
    return user.end


def association_of(end: DataChannels) -> Association:
    assert end._association is not None
    return end._association


def pump_of(end: DataChannels) -> Pump:
    assert end._pump is not None
    return end._pump


def is_acknowledged(end: DataChannels) -> bool:
    """Whether the peer has acknowledged everything that was sent."""
    halves = association_of(end)._halves
    return halves is not None and not halves.transmitter.sending.kept and not association_of(end)._scheduler.has_some


def leaves_nothing(end: DataChannels) -> None:
    """End it, and see that it leaves no timer and no channel."""
    if hasattr(end, "_user"):
        end.stop()
    assert end._pump is None
    assert end._association is None
    assert not end._channels
    assert end.buffered == end.kept == 0


class Pair:
    """Two ends; the first opens channels with even numbers."""

    def __init__(self, max_channels: int = 200, largest: int = 1188) -> None:
        self.users = User(), User()
        self.wires = Wire(largest), Wire(largest)
        self.one, self.two = (end_with(user, max_channels) for user in self.users)
        self.wires[0].arrive, self.wires[1].arrive = self.two.packets_received, self.one.packets_received

    async def connect(self) -> Pair:
        for end, wire in zip((self.one, self.two), self.wires, strict=True):
            is_first = end is self.one
            end.start(wire, initiates=is_first, even=is_first, peer_port=PORT, max_message=262144)
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
        leaves_nothing(self.one)
        leaves_nothing(self.two)


@contextmanager
def ended(pair: Pair) -> Iterator[Pair]:
    """The pair ends with the test."""
    try:
        yield pair
    finally:
        pair.close()


class HostileChannels(Hostile):
    """A hostile peer of an end.

    :ivar victim: that end.
    :ivar user: its user.
    :ivar wire: what it sends through.
    """

    def __init__(self, max_channels: int = 200, *, interleaved: bool = False, window: int = 1 << 20) -> None:
        super().__init__(interleaved=interleaved, window=window)
        self.user = User()
        self.victim = end_with(self.user, max_channels)
        self.deliver = self.victim.packets_received
        self.wire = Wire()
        self.wire.passes = self._hear
        self.victim.start(self.wire, initiates=False, even=False, peer_port=PORT, max_message=None)
        self.shake_hands()

    def _hear(self, packet: bytes) -> bool:
        self.sent.append(packet)
        return False

    def open(self, stream: int, message: bytes = b"") -> None:
        """Open a channel."""
        self.put(self.data(stream, DCEP, message or encode_open("tcp-x", "", reliable=True)))

    def still_works(self, stream: int = 100) -> None:
        """The victim takes a new channel and its messages."""
        count = len(self.user.channels)
        self.open(stream)
        self.put(self.data(stream, BINARY, b"still there"))
        assert len(self.user.channels) == count + 1
        assert self.user.users[-1].received == b"still there"
        assert self.user.told == ["up"]

    async def settle(self) -> None:
        await turns(5)


@contextmanager
def hostile(max_channels: int = 200, *, interleaved: bool = False, window: int = 1 << 20) -> Iterator[HostileChannels]:
    """A hostile peer that ends with the test."""
    peer = HostileChannels(max_channels, interleaved=interleaved, window=window)
    try:
        yield peer
    finally:
        leaves_nothing(peer.victim)
