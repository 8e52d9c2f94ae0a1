"""Streams over data channels of real peer connections, over loopback, keep the promises of all streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest_twisted

from rtunnel.rtc.aiortc.peer_connection import PeerConnection
from rtunnel.rtc.settings import IceSettings
from rtunnel.rtc.streams import ChannelStreams
from rtunnel.wire.sctp.events import AssociationLimits
from rtunnel.wire.webrtc.signaling import Extension
from tests.plenty import plenty
from tests.relay.stream_contract import End, StreamContract
from tests.reverse.net import reactor, turns, until
from tests.rtc.fakes import FakePeer, log_limiter
from tests.rtc.streams import LIMITS, User

LOOPBACK = IceSettings(interfaces=("127.0.0.1",))


class RealPair:
    """Two peer connections of this process."""

    def __init__(self, reference: bool) -> None:
        self.peers = FakePeer(), FakePeer()
        self.connections = [PeerConnection(LOOPBACK, peer, 100, log_limiter()) for peer in self.peers]
        extension = None if reference else Extension(LIMITS.initial_credit)
        self.ends = [
            ChannelStreams(connection, reactor, LIMITS, extension, lambda: None, plenty(reactor))
            for connection in self.connections
        ]
        for peer, streams in zip(self.peers, self.ends, strict=True):
            peer.on_room = streams.has_room
        self.users: list[User] = []
        self.peers[1].on_channel = self._arrived

    def _arrived(self, channel: Any) -> None:
        user = User()
        self.users.append(user)
        user.stream = self.ends[1].attach(channel, user)

    async def connect(self) -> None:
        one, two = self.connections
        one.offer()
        two.take_offer(await self._description(0))
        one.take_answer(await self._description(1))
        await until(lambda: all(("connected",) in peer.told for peer in self.peers))

    async def _description(self, number: int) -> str:
        told = self.peers[number].told
        await until(lambda: told)
        return str(told[0][1])

    async def open(self) -> tuple[User, User]:
        user, count = User(), len(self.users)
        user.stream = self.ends[0].attach(self.connections[0].open_channel("tcp-192.0.2.1:1"), user)
        # Both ends: before that, the opener has nothing but the closing of the channel to reset a stream by.
        await until(lambda: len(self.users) > count and user.stream.machine.opened)
        return user, self.users[-1]

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()


class TestRealChannels(StreamContract):
    @pytest_twisted.async_yield_fixture
    async def setting(self) -> Any:
        pair = RealPair(reference=False)
        await pair.connect()
        yield pair
        await pair.close()
        await until(lambda: not any(map(len, pair.ends)))
        assert not any(streams.turns or streams.buffer.credit_due for streams in pair.ends)

    async def open_stream(self, setting: Any) -> tuple[End, End]:
        one, two = await setting.open()
        return End(one.stream, one), End(two.stream, two)

    async def until(self, condition: Callable[[], object]) -> None:
        await until(condition)


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_shuts_the_window_of_a_reference_peer() -> None:
    pair = RealPair(reference=True)
    await pair.connect()
    one, two = await pair.open()
    total, sent = 16_000_000, 0

    def feed() -> None:
        nonlocal sent
        while not one.paused and sent < total:
            one.stream.write(bytes(50_000))
            sent += 50_000
        if sent == total:
            one.stream.finish()

    def resume() -> None:
        User.resume(one)
        feed()

    one.resume = resume  # type: ignore[method-assign]
    feed()
    await until(lambda: len(two.received) > 500_000)
    seen = -1
    while len(two.received) != seen:
        seen = len(two.received)
        await turns(100)
    # The window, and a message that it cannot hold any more.
    assert seen < AssociationLimits().interleaved_window + 500_000
    two.read()
    await until(lambda: two.told)
    assert (len(two.received), two.told) == (total, ["closed"])
    await until(lambda: one.told[-1] == "closed")
    await pair.close()
