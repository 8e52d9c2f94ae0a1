"""The messages of an association that have not begun to be sent, and which of them goes next.

    messages that open channels  >  datagrams  >  messages on reliable channels, the bytes of streams

Datagrams are useless when they are late, so they go before streams. They do not obey congestion control, so a flow may
bring more of them than the path carries, for as long as it likes. Streams therefore have a share: after
:data:`LEAD` bytes of datagrams, a message of a stream goes first.
"""

from __future__ import annotations

from collections import deque

from aiortc.rtcsctptransport import WEBRTC_DCEP

from rtunnel.rtc.aiortc.channel import Channel

#: How many bytes of datagrams may wait. Beyond that the older half is dropped.
MAX_DATAGRAM_BYTES = 128 * 1024
#: What each message counts for in addition to its bytes.
MESSAGE_COST = 64
#: Datagrams take this many times the bytes of streams while there is more of both than can be sent.
DATAGRAM_SHARE = 3
#: After this many bytes of datagrams, a message of a stream goes first. Streams send messages of 16 KiB.
LEAD = DATAGRAM_SHARE * 16 * 1024

#: A channel, a payload protocol identifier (RFC 8831, section 8), and the bytes.
Message = tuple[Channel, int, bytes]


class SendQueue:
    """The messages that wait.

    :ivar stream_bytes: bytes that wait on reliable channels.
    :ivar dropped: datagrams that were dropped because too many were waiting.
    """

    def __init__(self) -> None:
        self._openings: deque[Message] = deque()
        self._datagrams: deque[Message] = deque()
        self._stream_messages: deque[Message] = deque()
        self._datagram_bytes = 0
        #: Bytes of datagrams that went before streams, without those that streams have made up for.
        self._lead = 0
        self.stream_bytes = 0
        self.dropped = 0

    def put(self, channel: Channel, kind: int, data: bytes) -> None:
        """Add a message."""
        message = channel, kind, data
        if kind == WEBRTC_DCEP:
            self._openings.append(message)
        elif channel.reliable:
            self._stream_messages.append(message)
            self.stream_bytes += len(data)
        else:
            self._datagrams.append(message)
            self._datagram_bytes += _cost(message)
            if self._datagram_bytes > MAX_DATAGRAM_BYTES:
                while self._datagram_bytes > MAX_DATAGRAM_BYTES // 2:
                    self._datagram_bytes -= _cost(self._datagrams.popleft())
                    self.dropped += 1

    @property
    def wants_streams(self) -> bool:
        """Whether it is the turn of streams, but no message of theirs waits."""
        return self._is_turn_of_streams and not self._stream_messages

    @property
    def _is_turn_of_streams(self) -> bool:
        return not self._datagrams or self._lead >= LEAD

    def take(self, *, streams: bool) -> Message | None:
        """Remove and return the message that goes next; None if there is none.

        :param streams: whether it may be one on a reliable channel.
        """
        if self._openings:
            return self._openings.popleft()
        if streams and self._stream_messages and self._is_turn_of_streams:
            message = self._stream_messages.popleft()
            self.stream_bytes -= len(message[2])
            self._lead = max(0, self._lead - DATAGRAM_SHARE * _cost(message))
            return message
        if self._datagrams:
            message = self._datagrams.popleft()
            self._datagram_bytes -= _cost(message)
            self._lead = min(LEAD, self._lead + _cost(message))
            return message
        return None

    def streams_of(self) -> set[int | None]:
        """The SCTP stream numbers on which messages wait."""
        return {channel.id for queue in self._queues for channel, _, _ in queue}

    def remove(self, channel: Channel) -> None:
        """Remove the message that opens *channel*."""
        self._openings = deque(message for message in self._openings if message[0] is not channel)

    def clear(self) -> set[Channel]:
        """Remove all messages, and return the channels on which they were to go."""
        channels = {channel for queue in self._queues for channel, _, _ in queue}
        for queue in self._queues:
            queue.clear()
        self.stream_bytes = self._datagram_bytes = 0
        return channels

    @property
    def _queues(self) -> tuple[deque[Message], ...]:
        return self._openings, self._datagrams, self._stream_messages


def _cost(message: Message) -> int:
    return len(message[2]) + MESSAGE_COST
