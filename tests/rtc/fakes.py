"""Peer connections in memory: several in one network, of which two find each other by offer and answer.

Nothing happens by itself: what is sent arrives when the test calls :meth:`FakeNetwork.pump` or ``settle``, or with the
reactor's turns after :meth:`FakeNetwork.run`. For streams alone there is :func:`connected_pair`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.errors import BadDescription
from rtunnel.rtc.interfaces import IChannel, IChannelUser, IPeerConnection, IPeerConnectionUser
from rtunnel.rtc.traffic import Traffic
from rtunnel.upkeep.log_limiter import LogLimiter
from tests.rtc.fake_channel import FakeChannel

#: Datagrams that wait at once; the oldest make room.
MAX_DATAGRAMS = 32
#: When fewer bytes than these wait, the user is told that there is room.
ROOM = 16384


class FakeNetwork:
    """Where connections find each other.

    :ivar round_trip: what every connection says of it, in seconds.
    :ivar room: bytes that a connection sends in one turn; None: all that waits. One message always fits.
    :ivar receive_window: bytes that one end holds before the other stops; None: it never does, as a hostile peer.
    """

    def __init__(self, *, room: int | None = None, receive_window: int | None = 1024 * 1024) -> None:
        self.round_trip = 0.05
        self.room = room
        self.receive_window = receive_window
        self.connections: list[FakeConnection] = []
        self._running: Any = None

    def connection(self, user: Any) -> FakeConnection:
        """A connection that is not connected yet."""
        connection = FakeConnection(self, user, len(self.connections))
        self.connections.append(connection)
        return connection

    def pump(self) -> bool:
        """One turn: what was sent before it arrives. False if there was nothing."""
        moved = False
        for connection in self.connections:
            connection.send_out()
        for connection in self.connections:
            moved = connection.take_in() or moved
        return moved

    def settle(self, most: int = 100_000) -> None:
        """Turns, until nothing moves."""
        for _ in range(most):
            if not self.pump():
                return
        raise AssertionError(f"still busy after {most} turns")

    def run(self, clock: Any) -> None:
        """From now on a turn in each turn of the reactor, until :meth:`stop`."""

        def turn() -> None:
            self._running = clock.callLater(0 if self.pump() else 0.001, turn)

        self._running = clock.callLater(0, turn)

    def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running = None


@implementer(IPeerConnection)
class FakeConnection:
    """One end of a connection.

    :ivar silent: it neither sends nor takes anything, as if its machine were gone.
    :ivar candidates: those that were taken.
    :ivar held: bytes that wait for slow readers.
    :ivar most_held, most_buffered: the highest that these ever were.
    """

    def __init__(self, network: FakeNetwork, user: Any, number: int) -> None:
        self.network = network
        self.user: IPeerConnectionUser = user
        self.number = number
        self.buffered = self.kept = 0
        self.max_message = 0
        self.datagrams_dropped = 0
        self.traffic = Traffic()
        self.stage = "path"
        self.path = self.heard_from = ""
        self.silent = False
        self.is_closed = False
        self.candidates: list[object] = []
        self.channels: dict[object, FakeChannel] = {}
        self.held = self.most_held = self.most_buffered = 0
        self._peer: FakeConnection | None = None
        self._offered = False
        self._news: deque[Callable[[], None]] = deque()
        self._urgent: deque[tuple[str, FakeChannel, Any, int]] = deque()
        self._queue: deque[tuple[str, FakeChannel, Any, int]] = deque()
        self._arriving: deque[tuple[str, FakeChannel, Any, int]] = deque()
        self._under_way = 0
        self._budget = 0
        self._opened = 0

    @property
    def round_trip(self) -> float:
        return self.network.round_trip

    # Its path never fails.
    wants_restart = False
    fingerprints = bytes(32), bytes(32)

    def restart(self) -> None:
        pass

    def continues(self, sdp: str) -> bool:
        return False

    def addresses_changed(self, addresses: Collection[str]) -> None:
        pass

    # Being connected

    def offer(self) -> None:
        self._offered = True
        self._news.append(lambda: self.user.description_ready("offer", f"offer {self.number}"))

    def take_offer(self, sdp: str) -> None:
        self._peer = self._find(sdp, "offer")
        self._news.append(lambda: self.user.description_ready("answer", f"answer {self.number}"))

    def take_answer(self, sdp: str) -> None:
        if not self._offered or self._peer is not None:
            raise BadDescription("no answer is expected")
        self._peer = self._find(sdp, "answer")
        self.connect(self._peer)

    def take_candidate(self, candidate: object) -> None:
        self.candidates.append(candidate)

    def _find(self, sdp: str, kind: str) -> FakeConnection:
        word, _, number = sdp.partition(" ")
        if word != kind or not number.isdigit() or int(number) >= len(self.network.connections):
            raise BadDescription(f"not an {kind}: {sdp[:50]}")
        return self.network.connections[int(number)]

    def connect(self, peer: FakeConnection) -> None:
        """Both ends are connected."""
        for one, two in ((self, peer), (peer, self)):
            one._peer = two
            one.max_message = 65536
            one.path = "direct, fake to fake"
            one._news.append(one.user.connected)

    # Channels

    def open_channel(self, label: str, protocol: str = "", reliable: bool = True) -> IChannel:
        self._opened += 1
        channel = FakeChannel(self, (self.number, self._opened), label, protocol, reliable)
        self.channels[channel.key] = channel
        self.put("open", channel)
        return channel

    def hold(self, count: int) -> None:
        assert count > 0
        self.held += count
        self.most_held = max(self.most_held, self.held)

    def release(self, count: int) -> None:
        assert 0 < count <= self.held
        self.held -= count

    def put(self, kind: str, channel: FakeChannel, data: Any = None, size: int = 0) -> None:
        """Something is to be sent on *channel*."""
        if self.is_closed:
            return
        if kind == "data" and not channel.reliable:
            self._urgent.append((kind, channel, data, size))
            if len(self._urgent) > MAX_DATAGRAMS:
                self._urgent.popleft()
                self.datagrams_dropped += 1
            return
        self._queue.append((kind, channel, data, size))
        self.buffered += size
        self.most_buffered = max(self.most_buffered, self.buffered)

    # Ends

    def close(self) -> Deferred[None]:
        self._end()
        if self._peer is not None and not self._peer.is_closed and not self.silent:
            self._peer._news.append(lambda peer=self._peer: peer.lose("closed by the peer"))  # type: ignore[misc]
        return succeed(None)

    def lose(self, reason: str) -> None:
        """The connection is lost, as this end sees it."""
        if not self.is_closed:
            self._end()
            self.user.lost(reason)

    def _end(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        channels, self.channels = list(self.channels.values()), {}
        for channel in channels:
            channel.gone()
        for queue in (self._queue, self._urgent, self._arriving):
            queue.clear()
        self.buffered = self._under_way = 0

    # Turns

    def send_out(self) -> None:
        """What may go is under way to the other end."""
        peer = self._peer
        if peer is None or self.is_closed or not self.max_message:
            return
        room = self.network.room
        self._budget = room if room is not None else 1 << 60
        self._transmit(peer)
        if self.buffered < ROOM:
            self.user.has_room()
            self._transmit(peer)

    def _transmit(self, peer: FakeConnection) -> None:
        window = self.network.receive_window
        while (self._urgent or self._queue) and self._budget > 0 and not self.is_closed:
            if not self._urgent and window is not None and peer.held + peer._under_way >= window:
                return
            item = self._urgent.popleft() if self._urgent else self._queue.popleft()
            kind, channel, _, size = item
            if kind != "data" or channel.reliable:
                self.buffered -= size
            self._budget -= size
            if not (self.silent or peer.silent or peer.is_closed):
                peer._arriving.append(item)
                peer._under_way += size

    def take_in(self) -> bool:
        """What was under way arrives; whether there was anything."""
        count = len(self._arriving) + len(self._news)
        for _ in range(len(self._news)):
            self._news.popleft()()
        for _ in range(len(self._arriving)):
            # A callback may have closed all.
            if self._arriving:
                kind, channel, data, size = self._arriving.popleft()
                self._under_way -= size
                getattr(self, f"_{kind}_arrived")(channel, data)
        return count > 0

    def _open_arrived(self, other: FakeChannel, _data: Any) -> None:
        channel = FakeChannel(self, other.key, other.label, other.protocol, other.reliable)
        channel.is_open = True
        self.channels[channel.key] = channel
        self.put("ack", channel)
        self.user.channel_arrived(channel)
        if channel.user is None:
            channel.close()

    def _ack_arrived(self, other: FakeChannel, _data: Any) -> None:
        channel = self.channels.get(other.key)
        if channel is not None and not channel.closing:
            channel.is_open = True
            if channel.user is not None:
                channel.user.channel_opened()

    def _data_arrived(self, other: FakeChannel, data: bytes) -> None:
        channel = self.channels.get(other.key)
        if channel is not None and channel.user is not None:
            channel.user.message_received(data)

    def _text_arrived(self, other: FakeChannel, data: bytes) -> None:
        channel = self.channels.get(other.key)
        if channel is not None and channel.user is not None:
            channel.user.text_received(data)

    def _close_arrived(self, other: FakeChannel, _data: Any) -> None:
        channel = self.channels.get(other.key)
        if channel is None:
            return
        if not channel.closing:
            # The answer of the protocol below: its own direction is closed, too.
            channel.is_open = False
            channel.closing = True
            self.put("close", channel)
        del self.channels[other.key]
        channel.gone()


@implementer(IPeerConnectionUser)
class FakePeer:
    """The user of a connection that takes all channels that arrive.

    :ivar told: what happened, in order.
    :ivar arrived: channels of the other end.
    :ivar on_channel: what is done with one in the turn in which it arrives.
    :ivar on_room: what is done when there is room.
    """

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.arrived: list[Any] = []
        self.on_channel: Callable[[Any], object] = lambda channel: channel.use(FakeChannelUser())
        self.on_room: Callable[[], object] = lambda: None

    def description_ready(self, kind: str, sdp: str) -> None:
        self.told.append((kind, sdp))

    def candidate_found(self, candidate: object) -> None:
        self.told.append(("candidate", candidate))

    def connected(self) -> None:
        self.told.append(("connected",))

    def path_doubtful(self) -> None:
        pass

    def path_silent(self) -> None:
        self.told.append(("silent",))

    def path_changed(self) -> None:
        self.told.append(("path",))

    def channel_arrived(self, channel: object) -> None:
        self.arrived.append(channel)
        self.on_channel(channel)

    def has_room(self) -> None:
        self.on_room()

    def lost(self, reason: str) -> None:
        self.told.append(("lost", reason))


@implementer(IChannelUser)
class FakeChannelUser:
    """A channel spoken by hand: writes down what it is told.

    :ivar told: ``"opened"``, messages as bytes, texts as str, ``"closed"``.
    """

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def channel_opened(self) -> None:
        self.told.append("opened")

    def message_received(self, data: bytes) -> None:
        self.told.append(data)

    def text_received(self, text: bytes) -> None:
        self.told.append(text.decode())

    def channel_closed(self) -> None:
        self.told.append("closed")


def connected_pair(network: FakeNetwork, one: Any, two: Any) -> tuple[FakeConnection, FakeConnection]:
    """Two connections that are connected; *one* and *two* are their users."""
    ends = network.connection(one), network.connection(two)
    ends[0].connect(ends[1])
    network.settle()
    return ends


def log_limiter(most: int = 20) -> LogLimiter:
    """For what peers can make us log: *most* lines of a kind, for ever."""
    return LogLimiter(Logger("test"), Clock(), most=most)
