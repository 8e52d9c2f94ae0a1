"""TCP streams over the data channels of one peer connection, with bounded memory at both ends.

    SocketEnd (IStreamUser) <-> IStream | DataChannelStream | IChannelUser <-> IChannel

Streams share the connection: :mod:`rtunnel.rtc.sending` decides whose turn it is to send, and
:mod:`rtunnel.rtc.receiving` how much each may receive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IReactorTime

from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.rtc.interfaces import IChannel, IChannels
from rtunnel.rtc.receiving import ReceiveBuffer
from rtunnel.rtc.sending import Turns
from rtunnel.rtc.stream import DataChannelStream
from rtunnel.upkeep.memory import STREAM, Memory
from rtunnel.wire.halves import BROKEN_MAX_STALL
from rtunnel.wire.limits import ChannelLimits
from rtunnel.wire.webrtc.channel_messages import encode_reset
from rtunnel.wire.webrtc.channel_stream import ChannelStream
from rtunnel.wire.webrtc.signaling import Extension


class ChannelStreams:
    """All streams of a peer connection.

    The owner passes on :meth:`has_room`, calls :meth:`tick` every second, and :meth:`reset_all` when the connection is
    lost (in the same turn of the reactor) or closed.

    :param peer: the extension that the other end announced; None: it speaks the reference protocol.
    :param on_end: called when a stream is over, and no longer counted.
    :param memory: what the process may hold.
    :ivar turns: the sending half.
    :ivar buffer: the receiving half.
    """

    def __init__(
        self,
        connection: IChannels,
        clock: IReactorTime,
        limits: ChannelLimits,
        peer: Extension | None,
        on_end: Callable[[], None],
        memory: Memory,
    ) -> None:
        self.memory = memory
        self.turns = Turns(connection)
        self.buffer = ReceiveBuffer(connection, clock, limits, extended=peer is not None)
        self.buffer.windows.growth = memory.growth
        self._clock = clock
        self._limits = limits
        self._peer = peer
        self._on_end = on_end
        self._streams: set[DataChannelStream] = set()
        self._closed: list[DataChannelStream] = []
        # Streams that are reset behind their queue: how much had been sent, and when that was first seen.
        self._broken: dict[DataChannelStream, tuple[int, float]] = {}

    def __len__(self) -> int:
        """The number of streams that are not over. One whose last bytes are still on their way counts."""
        return len(self._streams)

    def attach(self, channel: IChannel, user: IStreamUser) -> IStream:
        """Make a stream over *channel*, which was just opened or just arrived.

        If there is no room for another one, the channel is refused and the stream is over.
        :meth:`IStreamUser.was_reset` is then called in the reactor's next turn, when the user knows the stream.
        """
        send_limit = None if self._peer is None else self._peer.initial_credit
        machine = ChannelStream(send_limit, self._limits.initial_credit, self._clock.seconds())
        stream = DataChannelStream(self, channel, user, machine)
        if len(self._streams) >= self._limits.max_streams or not self.buffer.has_room:
            machine.end()
            self.refuse(channel, Code.LIMIT)
            self._clock.callLater(0, user.was_reset, Code.LIMIT, "the peer connection has no room for another stream")
            return stream
        self._streams.add(stream)
        self.memory.add(STREAM)
        self.buffer.add(stream)
        # A reference peer may lose what comes before it has acknowledged the channel.
        machine.opened = channel.is_open or (self._peer is not None and channel.can_send)
        channel.use(stream)
        return stream

    def refuse(self, channel: IChannel, code: Code, message: str = "") -> None:
        """Close *channel* for this reason. What still comes on it is dropped."""
        if self._peer is not None:
            channel.send_text(encode_reset(code, message))
        channel.close()

    def holdings(self) -> Iterator[tuple[int, DataChannelStream]]:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        for stream in self._streams | self.buffer.holding.keys():
            assert isinstance(stream, DataChannelStream)
            yield stream.held, stream

    def give_up(self, stream: DataChannelStream) -> None:
        """Reset *stream*, to free the memory that it holds."""
        stream.give_up(Code.STALLED, "the process is short of memory (--memory)")

    def measure_growth(self) -> int:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        return self.buffer.windows.measure(stream.machine.receive_window for stream in self._streams)

    def reset_all(self, code: Code) -> None:
        """Reset every stream that has not ended."""
        for stream in list(self._streams):
            stream.fail(code, "the peer connection ends")

    def tick(self) -> None:
        """Reset streams that do not move. Call this about once a second."""
        self.buffer.tick()
        now = self._clock.seconds()
        for stream, (sent, since) in list(self._broken.items()):
            machine = stream.machine
            if machine.send_window.sent != sent:
                self._broken[stream] = machine.send_window.sent, now
            elif now - since >= BROKEN_MAX_STALL and machine.broken is not None:
                stream.reset(*machine.broken)

    def has_room(self) -> None:
        """Send more: the connection has room. Cheap when there is nothing to send."""
        self.buffer.grant_due()
        self.turns.run()

    # Called by the streams

    def close_soon(self, stream: DataChannelStream) -> None:
        """See :class:`rtunnel.rtc.stream.Streams`.

        For a reference peer a closed channel is a proper end. A lost connection closes channels as well, which must not
        be taken for the end of the stream. Which of the two it is becomes clear within this turn of the reactor.
        """
        self._closed.append(stream)
        if len(self._closed) == 1:
            self._clock.callLater(0, self._close_now)

    def _close_now(self) -> None:
        closed, self._closed = self._closed, []
        for stream in closed:
            stream.close()

    def has_broken(self, stream: DataChannelStream) -> None:
        """See :class:`rtunnel.rtc.stream.Streams`."""
        self._broken[stream] = stream.machine.send_window.sent, self._clock.seconds()

    def forget(self, stream: DataChannelStream) -> None:
        """See :class:`rtunnel.rtc.stream.Streams`."""
        self._broken.pop(stream, None)
        self._streams.discard(stream)
        self._on_end()
