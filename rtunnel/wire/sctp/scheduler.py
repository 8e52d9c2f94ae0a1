"""Which message goes next (RFC 8260, section 3).

    messages that open channels  >  datagrams  >  messages on reliable channels, which take turns by bytes

Datagrams are useless when they are late, so they go before streams. A flow may bring more of them than the path
carries, for as long as it likes; so streams have a share: after :data:`LEAD` bytes of datagrams, streams go first.

Fragments of one message follow each other, unless the peer can put together messages that are interleaved. Then a large
message holds up nobody.
"""

from __future__ import annotations

from collections import deque

from rtunnel.wire.sctp.chunks import BEGIN, END, PPID_DCEP, UNORDERED

#: How many bytes of datagrams may wait. Beyond that the older half is dropped.
MAX_DATAGRAM_BYTES = 128 * 1024
#: What each message counts for in addition to its bytes.
MESSAGE_COST = 64
#: Datagrams take this many times the bytes of streams while there is more of both than can be sent.
DATAGRAM_SHARE = 2
#: By how many bytes, in all, a stream may be ahead of its turn. Users send messages of 16 KiB.
TURN = 16 * 1024
#: After this many bytes of datagrams, streams go first.
LEAD = DATAGRAM_SHARE * TURN
#: A message is not cut into less than this many bytes to fill a packet.
LEAST_FRAGMENT = 256


class Message:
    """A message on its way out.

    :ivar kind: payload protocol identifier.
    :ivar most_sends: how often it may be sent in all; None: until it is acknowledged.
    :ivar number: its SSN, or its MID; assigned when it begins to be sent.
    :ivar at: how many bytes of it have been taken.
    :ivar fragments: how many fragments have been taken.
    :ivar tsns: their TSNs, if it may be given up.
    :ivar abandoned: whether it is given up.
    """

    __slots__ = (
        *("abandoned", "at", "data", "fragments", "kind", "most_sends", "number", "ordered", "size", "stream", "tsns"),
    )

    def __init__(self, stream: int, kind: int, data: bytes, ordered: bool, most_sends: int | None) -> None:
        self.stream = stream
        self.kind = kind
        self.data: bytes | memoryview = data
        self.size = len(data)
        self.ordered = ordered
        self.most_sends = most_sends
        self.number = 0
        self.at = 0
        self.fragments = 0
        self.tsns: list[int] = []
        self.abandoned = False


class Scheduler:
    """The messages that wait.

    :ivar interleaved: whether fragments of several messages may be mixed (I-DATA).
    :ivar stream_bytes: bytes that wait on reliable channels.
    :ivar dropped: datagrams that were dropped because too many were waiting.
    :ivar bytes_begun: bytes of messages, but those that open channels, whose sending has begun.
    """

    def __init__(self) -> None:
        self.interleaved = False
        self.stream_bytes = 0
        self.dropped = 0
        self.bytes_begun = 0
        self._urgent: deque[Message] = deque()
        self._datagrams: deque[Message] = deque()
        self._datagram_bytes = 0
        self._streams: dict[int, deque[Message]] = {}
        self._turns: deque[int] = deque()
        self._credit: dict[int, int] = {}
        #: The message whose fragments have to follow each other, and the queue at whose head it is.
        self._begun: tuple[Message, deque[Message]] | None = None
        self._numbers: dict[tuple[int, bool], int] = {}
        #: Bytes of datagrams that went before streams, without those that streams have made up for.
        self._lead = 0

    def put(self, message: Message) -> None:
        """Add a message."""
        if message.kind == PPID_DCEP:
            self._urgent.append(message)
        elif message.most_sends is None:
            queue = self._streams.get(message.stream)
            if queue is None:
                queue = self._streams[message.stream] = deque()
                self._turns.append(message.stream)
                self._credit[message.stream] = TURN
            queue.append(message)
            self.stream_bytes += message.size
        else:
            self._datagrams.append(message)
            self._datagram_bytes += message.size + MESSAGE_COST
            if self._datagram_bytes > MAX_DATAGRAM_BYTES:
                self._drop_old_datagrams()

    def _drop_old_datagrams(self) -> None:
        queue = self._datagrams
        # One that has begun goes on; so does the newest, however large.
        begun = queue.popleft() if queue[0].at else None
        while self._datagram_bytes > MAX_DATAGRAM_BYTES // 2 and len(queue) > 1:
            self._datagram_bytes -= queue.popleft().size + MESSAGE_COST
            self.dropped += 1
        if begun is not None:
            queue.appendleft(begun)

    @property
    def has_some(self) -> bool:
        """Whether anything waits."""
        return bool(self._urgent or self._datagrams or self._turns)

    @property
    def wants_streams(self) -> bool:
        """Whether it is the turn of streams, but no message of theirs waits."""
        return not self._turns and (not self._datagrams or self._lead >= LEAD)

    def take(self, room: int, *, streams: bool) -> tuple[Message, bytes | memoryview, int] | None:
        """Return the message that goes next, its next fragment, of at most *room* bytes, and the fragment's flags.

        :param streams: whether it may be one on a reliable channel.
        :returns: None if none waits, or if none should be cut so short.
        """
        if self._begun is not None:
            message, queue = self._begun
            if queue is not self._datagrams and queue is not self._urgent and not streams:
                return None
        else:
            found = self._pick(streams)
            if found is None:
                return None
            message, queue = found
        at = message.at
        left = message.size - at
        flags = 0 if message.ordered else UNORDERED
        if left > room:
            if room < LEAST_FRAGMENT:
                return None
            if not at:
                message.data = memoryview(message.data)
            left = room
        else:
            flags |= END
        if not at:
            flags |= BEGIN
            self._begin(message)
        payload = message.data[at : at + left] if left < message.size else message.data
        message.at = at + left
        message.fragments += 1
        self._count(message, queue, left, flags & END)
        return message, payload, flags

    def _pick(self, streams: bool) -> tuple[Message, deque[Message]] | None:
        if self._urgent:
            return self._urgent[0], self._urgent
        datagrams, turns = self._datagrams, self._turns
        if streams and turns and (not datagrams or self._lead >= LEAD):
            credit = self._credit
            while credit[turns[0]] <= 0:
                credit[turns[0]] += TURN
                turns.rotate(-1)
            queue = self._streams[turns[0]]
            return queue[0], queue
        return (datagrams[0], datagrams) if datagrams else None

    def _begin(self, message: Message) -> None:
        if message.kind != PPID_DCEP:
            self.bytes_begun += message.size
        if message.ordered or self.interleaved:
            key = message.stream, message.ordered
            message.number = self._numbers.get(key, 0)
            self._numbers[key] = message.number + 1

    def _count(self, message: Message, queue: deque[Message], count: int, ended: int) -> None:
        self._begun = None if ended or self.interleaved else (message, queue)
        if ended:
            queue.popleft()
        if queue is self._datagrams:
            if self._lead < LEAD:
                # What goes beyond it counts, or streams would get less than their share of small packets.
                self._lead += count + MESSAGE_COST
            if ended:
                self._datagram_bytes -= message.size + MESSAGE_COST
        elif queue is not self._urgent:
            stream = message.stream
            self._lead = max(0, self._lead - DATAGRAM_SHARE * count)
            self.stream_bytes -= count
            self._credit[stream] -= count
            if not queue:
                del self._streams[stream], self._credit[stream]
                self._turns.remove(stream)

    def abandon(self, message: Message) -> None:
        """Take no more of *message*, which has begun and has not been taken whole."""
        if message.at >= message.size:
            return
        if self._begun is not None and self._begun[0] is message:
            self._begun = None
        self._datagrams.remove(message)
        self._datagram_bytes -= message.size + MESSAGE_COST
        message.at = message.size

    def is_busy(self, stream: int) -> bool:
        """Whether a message waits on *stream*."""
        if stream in self._streams:
            return True
        return any(message.stream == stream for queue in (self._urgent, self._datagrams) for message in queue)

    def forget(self, stream: int) -> None:
        """Begin *stream* anew, with the numbers 0."""
        self._numbers.pop((stream, True), None)
        self._numbers.pop((stream, False), None)

    def clear(self) -> None:
        """Drop everything."""
        for queue in (self._urgent, self._datagrams, self._turns, self._streams, self._credit):
            queue.clear()
        self.stream_bytes = self._datagram_bytes = 0
        self._begun = None
