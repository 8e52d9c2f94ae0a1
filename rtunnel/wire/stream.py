"""One stream of a link: what it may send and receive, and what it still has to send."""

from __future__ import annotations

from typing import Any

from rtunnel.wire import frames
from rtunnel.wire.credit import FIN_PAYLOAD, ReceiveWindow, SendWindow
from rtunnel.wire.halves import HIGH_WATER, StreamHalves


class Stream(StreamHalves):
    """State of one stream. Only the link changes it, except for *owner*.

    :ivar conn_id: its number on the wire.
    :ivar owner: set by the I/O, which finds it again with each event.
    :ivar lingering: the stream is over on the wire, but some of what it received has not been delivered yet.
    :ivar moving: its source goes on elsewhere. So the end of this direction is a MOVE, not a FIN.
    :ivar received_move: the end of the other direction was a MOVE.
    """

    __slots__ = ("conn_id", "lingering", "moving", "owner", "received_move")

    def __init__(self, conn_id: int, send_window: SendWindow, receive_window: ReceiveWindow) -> None:
        super().__init__(send_window, receive_window)
        self.conn_id = conn_id
        self.owner: Any = None
        self.lingering = self.moving = self.received_move = False

    @property
    def wants_pause(self) -> bool:
        """Whether so much is queued that the source should pause."""
        return self.queued >= HIGH_WATER

    @property
    def can_send(self) -> bool:
        """Whether the stream has something to send and may send it: bytes within its credit, its end, or a reset."""
        if self.queued:
            return self.send_window.sent < self.send_window.limit
        return (self.ending and not self.sent_end) or self.broken is not None

    @property
    def sent_move(self) -> bool:
        """Whether MOVE has gone out."""
        return self.moving and self.sent_end

    def take_end(self) -> bytes:
        """Return the frame that ends this direction, FIN or MOVE. From now on it counts as sent."""
        self.sent_end = True
        frame_type = frames.MOVE if self.moving else frames.FIN
        return frames.encode_frame(frame_type, self.conn_id, FIN_PAYLOAD.pack(self.send_window.sent))
