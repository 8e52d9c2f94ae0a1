"""One stream of a link: what it may send and receive, and what it still has to send."""

from __future__ import annotations

from typing import Any

from rtunnel.wire.credit import ReceiveWindow, SendWindow
from rtunnel.wire.halves import HIGH_WATER, StreamHalves


class Stream(StreamHalves):
    """State of one stream. Only the link changes it, except for *owner*.

    :ivar conn_id: its number on the wire.
    :ivar owner: set by the I/O, which finds it again with each event.
    :ivar lingering: the stream is over on the wire, but some of what it received has not been delivered yet.
    """

    __slots__ = ("conn_id", "lingering", "owner")

    def __init__(self, conn_id: int, send_window: SendWindow, receive_window: ReceiveWindow) -> None:
        super().__init__(send_window, receive_window)
        self.conn_id = conn_id
        self.owner: Any = None
        self.lingering = False

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
