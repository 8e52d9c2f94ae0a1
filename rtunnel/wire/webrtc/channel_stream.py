"""The state of one stream over a data channel: what is queued, what may be sent and received, which ends have come.

    opened     the channel can be sent on; what was written before waits
    ending     we write no more; our end goes out behind what is queued, then we have sent_end
    open       until both ends have come, or a reset, or the channel is gone; then messages mean nothing any more

Between two ends of ours each direction has credit and an end of its own. A reference peer knows neither: the end of
the channel is that of both directions.
"""

from __future__ import annotations

from collections import deque

from rtunnel.errors import Code
from rtunnel.wire.credit import ReceiveWindow, SendWindow
from rtunnel.wire.stream import SMALL_CHUNK

#: Why a peer's message breaks the stream: a code, and words for people.
Fault = tuple[Code, str]


class ChannelStream:
    """Only whoever does the I/O of the stream changes it.

    :param send_limit: bytes that the peer takes before it grants more; None for a reference peer.
    :param credit: bytes that we take before we grant more; without meaning for a reference peer.
    :param now: the time, in seconds on any clock that does not run backwards.
    :ivar queued: bytes waiting for the channel, for credit or for their turn.
    """

    __slots__ = (
        "_chunks",
        "_start",
        "ending",
        "extended",
        "open",
        "opened",
        "paused",
        "queued",
        "receive_window",
        "received_end",
        "scheduled",
        "send_window",
        "sent_end",
    )

    def __init__(self, send_limit: int | None, credit: int, now: float) -> None:
        self.extended = send_limit is not None
        self.send_window = SendWindow(send_limit)
        self.receive_window = ReceiveWindow(credit, now)
        self.queued = 0
        self._chunks: deque[bytes] = deque()
        # Bytes of the first piece that are sent already.
        self._start = 0
        self.opened = False
        self.open = True
        self.ending = False
        self.sent_end = False
        self.received_end = False
        #: On the round of streams that can send.
        self.scheduled = False
        #: Its source was told to pause.
        self.paused = False

    # Out

    @property
    def can_send(self) -> bool:
        """There are bytes to send, and they may be sent."""
        window = self.send_window
        return self.queued > 0 and self.opened and window.sent < window.limit

    @property
    def end_is_due(self) -> bool:
        """It is time to send our end."""
        return self.ending and self.opened and self.open and not self.queued and not self.sent_end

    def put(self, data: bytes) -> bool:
        """Queue *data*; False if nothing is taken any more. Small pieces are joined: a piece costs more memory than a
        byte does."""
        if not data or self.ending or not self.open:
            return False
        chunks = self._chunks
        if chunks and len(chunks[-1]) + len(data) <= SMALL_CHUNK:
            chunks[-1] += data
        else:
            chunks.append(data)
        self.queued += len(data)
        return True

    def take(self, most: int) -> bytes:
        """The next message, of at most *most* bytes and within credit. Only while :attr:`can_send`."""
        window = self.send_window
        size = min(most, window.limit - window.sent, self.queued)
        head, start = self._chunks[0], self._start
        end = start + size
        if end < len(head):
            message = head[start:end]
            self._start = end
        elif end == len(head):
            message = head[start:] if start else head
            self._chunks.popleft()
            self._start = 0
        else:
            message = self._join(size)
        self.queued -= size
        window.sent += size
        return message

    def _join(self, size: int) -> bytes:
        chunks = self._chunks
        pieces = [chunks.popleft()[self._start :]]
        self._start = 0
        size -= len(pieces[0])
        while size:
            head = chunks[0]
            if len(head) > size:
                pieces.append(head[:size])
                self._start = size
                break
            pieces.append(chunks.popleft())
            size -= len(head)
        return b"".join(pieces)

    def end(self) -> None:
        """Messages mean nothing any more; forget what is queued."""
        self.open = False
        self._chunks.clear()
        self._start = self.queued = 0

    # In

    def receive(self, count: int) -> Fault | None:
        """*count* bytes came; the reason if they may not."""
        window = self.receive_window
        window.received += count
        if not self.extended:
            return None
        if self.received_end:
            return Code.PROTOCOL, "bytes after fin"
        if window.received > window.limit:
            return Code.FLOW_CONTROL, "more bytes than credit"
        return None

    def receive_fin(self, total: int) -> Fault | None:
        """The peer has sent *total* bytes and sends no more; the reason if that cannot be."""
        window = self.receive_window
        if self.received_end:
            return Code.PROTOCOL, "a second fin"
        if total != window.received:
            return Code.PROTOCOL, f"a fin of {total} bytes where {window.received} came"
        self.received_end = True
        window.end()
        return None
