"""One stream of a link: what it may send and receive, and what it still has to send."""

from __future__ import annotations

from collections import deque
from typing import Any

from rtunnel.wire.credit import ReceiveWindow, SendWindow

#: At this many bytes queued the source of a stream should pause, and at the lower mark it may go on.
HIGH_WATER = 65536
LOW_WATER = 16384
#: Pieces are joined up to this many bytes.
SMALL_CHUNK = 4096


class Stream:
    """State of one stream. Only the link changes it; *owner* is for whoever does the I/O.

    :ivar conn_id: its number on the wire.
    :ivar queued: bytes waiting for credit or for their turn.
    :ivar owner: whatever the I/O around the link wants to find again with an event.
    """

    __slots__ = (
        "chunks",
        "conn_id",
        "ending",
        "lingering",
        "open",
        "owner",
        "paused",
        "queued",
        "receive_window",
        "received_end",
        "scheduled",
        "send_window",
        "sent_end",
    )

    def __init__(self, conn_id: int, send_window: SendWindow, receive_window: ReceiveWindow) -> None:
        self.conn_id = conn_id
        self.send_window = send_window
        self.receive_window = receive_window
        self.owner: Any = None
        self.chunks: deque[bytes] = deque()
        self.queued = 0
        #: On the link's round of streams that can send.
        self.scheduled = False
        #: Its source was told to pause.
        self.paused = False
        #: Its end is to be sent behind what is queued.
        self.ending = False
        self.sent_end = False
        self.received_end = False
        #: Frames for it still mean something.
        self.open = True
        #: Over on the wire, with received bytes still to be delivered.
        self.lingering = False

    @property
    def wants_pause(self) -> bool:
        """So much is queued that the source should pause."""
        return self.queued >= HIGH_WATER

    @property
    def can_send(self) -> bool:
        """It has something to send and may: bytes with credit, or its end."""
        return self.send_window.available > 0 if self.queued else self.ending and not self.sent_end

    def put(self, data: bytes) -> None:
        """Queue *data*. Small pieces are joined: a piece costs more memory than a byte does."""
        chunks = self.chunks
        if chunks and len(chunks[-1]) + len(data) <= SMALL_CHUNK:
            chunks[-1] += data
        else:
            chunks.append(data)
        self.queued += len(data)

    def take(self, limit: int) -> list[bytes]:
        """Up to *limit* queued bytes, in the pieces they came in."""
        chunks = self.chunks
        pieces = []
        taken = 0
        while chunks:
            chunk = chunks[0]
            room = limit - taken
            if len(chunk) <= room:
                pieces.append(chunks.popleft())
                taken += len(chunk)
                continue
            if room:
                pieces.append(chunk[:room])
                chunks[0] = chunk[room:]
                taken += room
            break
        self.queued -= taken
        return pieces

    def drop(self) -> None:
        """Forget what is queued."""
        self.chunks.clear()
        self.queued = 0
