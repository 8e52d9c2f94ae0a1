"""The two halves of a stream: its send queue, and its credit in both directions.

A stream of a link (:mod:`rtunnel.wire.stream`) and one over a data channel (:mod:`rtunnel.wire.webrtc.channel_stream`)
differ only in what they put on the wire.
"""

from __future__ import annotations

from rtunnel.wire.credit import ReceiveWindow, SendWindow

#: The source of a stream should pause when this many bytes are queued, and may resume at the lower mark.
HIGH_WATER = 65536
LOW_WATER = 16384
#: Seconds for which the queue of a broken stream may stand still, before the reset goes out at once.
BROKEN_MAX_STALL = 30.0
#: Pieces are joined up to this many bytes.
SMALL_CHUNK = 4096


class StreamHalves:
    """State that the streams of every carrier have. Only the carrier changes it.

    :ivar queued: bytes waiting for credit or for their turn.
    :ivar scheduled: the stream is among those that take turns to send.
    :ivar paused: its source was told to pause.
    :ivar ending: its source is done; the end is to be sent behind what is queued.
    :ivar broken: the code and the reason of a reset that is to be sent behind what is queued, and behind the end if the
        source was done before; or None. What the peer sends is dropped. If the source goes on elsewhere, so does the
        reset.
    :ivar open: the stream still accepts what the peer sends.
    """

    __slots__ = (
        "_start",
        "broken",
        "chunks",
        "ending",
        "open",
        "paused",
        "queued",
        "receive_window",
        "received_end",
        "scheduled",
        "send_window",
        "sent_end",
    )

    def __init__(self, send_window: SendWindow, receive_window: ReceiveWindow) -> None:
        self.send_window = send_window
        self.receive_window = receive_window
        # No deque: an empty one takes 760 bytes, and few pieces wait here at a time.
        self.chunks: list[bytes] = []
        # How many bytes of the first chunk have been taken.
        self._start = 0
        self.queued = 0
        self.scheduled = False
        self.paused = False
        self.ending = False
        self.broken: tuple[str, str] | None = None
        self.sent_end = False
        self.received_end = False
        self.open = True

    def put(self, data: bytes) -> bool:
        """Queue *data*. Small pieces are joined, since each piece costs more memory than its bytes.

        :returns: whether anything was queued: *data* is not empty, and the stream still sends.
        """
        if not data or self.ending or self.broken or not self.open:
            return False
        chunks = self.chunks
        if chunks and len(chunks[-1]) + len(data) <= SMALL_CHUNK:
            chunks[-1] += data
        else:
            chunks.append(data)
        self.queued += len(data)
        return True

    def take(self, limit: int) -> list[bytes]:
        """Remove up to *limit* bytes from the queue.

        :returns: the bytes, in the pieces in which they were queued.
        """
        chunks, start = self.chunks, self._start
        pieces = []
        left = min(limit, self.queued)
        self.queued -= left
        while left > 0:
            chunk = chunks[0]
            end = start + left
            if end < len(chunk):
                pieces.append(chunk[start:end])
                self._start = end
                break
            pieces.append(chunk[start:] if start else chunk)
            left -= len(chunk) - start
            del chunks[0]
            start = self._start = 0
        return pieces

    def drop(self) -> None:
        """Forget what is queued."""
        self.chunks.clear()
        self._start = self.queued = 0
