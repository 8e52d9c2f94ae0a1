"""The sending half of the streams of a peer connection: they take turns, one message each.

Written bytes wait in the streams, not in the channels. aiortc has one queue for all channels, so a stream that puts all
its bytes there delays every other. Streams therefore send only while little waits below them.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from rtunnel.rtc.interfaces import IChannels
from rtunnel.wire.webrtc.channel_stream import ChannelStream

#: The size of the messages that we send, in bytes.
MESSAGE = 16384
#: Streams send while fewer than this many bytes wait in the connection.
LOW = 16384


class Sender(Protocol):
    """A stream that takes turns."""

    machine: ChannelStream

    def send_message(self, most: int) -> None:
        """Send one message of at most *most* bytes."""


class Turns:
    """The streams that have something to send and may send it."""

    def __init__(self, connection: IChannels) -> None:
        self._connection = connection
        self._streams: deque[Sender] = deque()
        self._running = False

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Sender) -> None:
        """Give *stream* a turn, behind all those that wait for theirs."""
        if not stream.machine.scheduled:
            stream.machine.scheduled = True
            self._streams.append(stream)

    def remove(self, stream: Sender) -> None:
        """Remove *stream* from the turns: it sends no more."""
        if stream.machine.scheduled:
            stream.machine.scheduled = False
            self._streams.remove(stream)

    def run(self) -> None:
        """Send while the connection has room. May be called at any time, and is cheap when there is nothing to send."""
        if self._running:
            return
        connection, streams = self._connection, self._streams
        self._running = True
        try:
            most = min(MESSAGE, connection.max_message)
            while streams and connection.buffered < LOW:
                stream = streams.popleft()
                stream.machine.scheduled = False
                stream.send_message(most)
                if stream.machine.can_send:
                    self.add(stream)
        finally:
            self._running = False
