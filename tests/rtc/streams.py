"""Two ends of a fake peer connection with streams on them, for the tests of streams over data channels."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.task import Clock

from rtunnel.errors import Code
from rtunnel.rtc.streams import ChannelStreams
from rtunnel.wire.limits import ChannelLimits
from rtunnel.wire.webrtc.signaling import Extension
from tests.plenty import plenty
from tests.relay.fakes import Recorder
from tests.rtc.fakes import FakeChannelUser, FakeNetwork, FakePeer, connected_pair

#: So that a bulk is far more than a window, however long the connection lives.
LIMITS = ChannelLimits(max_window=512 * 1024)


class User(Recorder):
    """The user of a stream.

    :ivar stream: the stream.
    :ivar keeps: what it has not delivered when the stream is reset, it may still deliver; otherwise that is lost.
    """

    stream: Any
    keeps = False

    def was_reset(self, code: str, message: str) -> None:
        super().was_reset(code, message)
        if not self.keeps:
            self.stream.reset(Code.CONNECTION_LOST, "the reader is gone")

    def read(self) -> None:
        """Deliver everything, what is here and what will come."""
        self.delivers = self.stream
        waiting = len(self.received)
        if waiting:
            self.stream.delivered(waiting)


class Pair:
    """Streams at both ends.

    :param reference: both ends take each other for a reference program.
    :ivar users: of the streams that arrived at the second end.
    :ivar ended: for each stream that is over, the connection of the end that was told so.
    """

    def __init__(
        self,
        *,
        reference: bool = False,
        room: int | None = None,
        receive_window: int | None = 1024 * 1024,
        limits: ChannelLimits = LIMITS,
        second_limits: ChannelLimits | None = None,
    ) -> None:
        self.clock = Clock()
        self.network = FakeNetwork(room=room, receive_window=receive_window)
        self.peers = FakePeer(), FakePeer()
        self.one, self.two = connected_pair(self.network, *self.peers)
        second = limits if second_limits is None else second_limits
        self.ended: list[Any] = []
        self.ends = [
            ChannelStreams(
                connection,
                self.clock,
                mine,
                None if reference else Extension(other.initial_credit),
                partial(self.ended.append, connection),
                plenty(self.clock),
            )
            for connection, mine, other in ((self.one, limits, second), (self.two, second, limits))
        ]
        for peer, streams in zip(self.peers, self.ends, strict=True):
            peer.on_room = streams.has_room
        self.users: list[User] = []
        self.peers[1].on_channel = self._arrived

    def _arrived(self, channel: Any) -> None:
        user = User()
        self.users.append(user)
        user.stream = self.ends[1].attach(channel, user)

    def start(self) -> User:
        """A new stream of the first end; its channel is not open yet."""
        user = User()
        user.stream = self.ends[0].attach(self.one.open_channel("tcp-192.0.2.1:1"), user)
        return user

    def open(self) -> tuple[User, User]:
        """A new stream; both ends of it."""
        count = len(self.users)
        user = self.start()
        self.network.settle()
        assert len(self.users) == count + 1
        return user, self.users[-1]

    def settle(self) -> None:
        self.network.settle()
        self.clock.advance(0.01)

    def until(self, condition: Callable[[], object]) -> None:
        """Let what is on its way arrive, until *condition* is true; it must become so."""
        for _ in range(20_000):
            if condition():
                return
            self.network.pump()
            self.clock.advance(0.01)
        raise AssertionError("that did not happen")

    def nothing_left(self) -> None:
        """No stream is known, nothing is reserved, nothing waits."""
        for streams, connection in zip(self.ends, (self.one, self.two), strict=True):
            assert len(streams) == 0
            assert streams.buffer.reserved == connection.held == connection.buffered == 0
            assert not streams.turns
            assert not streams.buffer.credit_due
            assert not streams.buffer.holding


class Lone(Pair):
    """Streams at the first end only; the other end is spoken by hand."""

    def by_hand(self) -> tuple[User, Any, FakeChannelUser]:
        """A stream of the first end; the other end's channel, and what was told to its user."""
        told = FakeChannelUser()
        self.peers[1].on_channel = lambda channel: channel.use(told)
        user = self.start()
        self.network.settle()
        return user, self.peers[1].arrived[-1], told


def texts(told: FakeChannelUser) -> list[dict[str, Any]]:
    """The messages in JSON that were sent to *told*."""
    return [json.loads(item) for item in told.told if isinstance(item, str) and item.startswith("{")]
