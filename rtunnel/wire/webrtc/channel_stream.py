"""The state of one stream over a data channel.

    opened     the channel can be sent on; what is written before waits
    ending     nothing more will be written; our end follows what is queued, then sent_end is set
    open       until both ends have come, the stream is reset or the channel is lost; then messages are ignored

Between two rtunnel ends, each direction has its own credit and its own end. A reference peer knows neither: closing the
channel ends both directions.
"""

from __future__ import annotations

from rtunnel.errors import Code
from rtunnel.wire.credit import ReceiveWindow, SendWindow
from rtunnel.wire.halves import StreamHalves

#: Why a peer's message resets the stream: a code, and a text for logs.
Fault = tuple[Code, str]


class ChannelStream(StreamHalves):
    """State of one stream over a data channel. Only the I/O around the channel changes it.

    :param send_limit: bytes that the peer takes before it grants more; None for a reference peer.
    :param credit: bytes that we take before we grant more; has no effect with a reference peer.
    :param now: the time, in seconds on any clock that does not run backwards.
    :ivar extended: the peer knows credit and half-close.
    :ivar opened: the channel can be sent on.
    """

    __slots__ = ("extended", "opened")

    def __init__(self, send_limit: int | None, credit: int, now: float) -> None:
        super().__init__(SendWindow(send_limit), ReceiveWindow(credit, now))
        self.extended = send_limit is not None
        self.opened = False

    # Out

    @property
    def can_send(self) -> bool:
        """Whether there are bytes to send, and credit for them."""
        window = self.send_window
        return self.queued > 0 and self.opened and window.sent < window.limit

    @property
    def end_is_due(self) -> bool:
        """Whether it is time to send our end."""
        return self.ending and self.opened and self.open and not self.queued and not self.sent_end

    def next_message(self, most: int) -> bytes:
        """Take the next message, of at most *most* bytes and within credit. Only while :attr:`can_send`."""
        window = self.send_window
        pieces = self.take(min(most, window.limit - window.sent))
        message = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        window.sent += len(message)
        return message

    def end(self) -> None:
        """Close the stream: drop what is queued, and ignore later messages."""
        self.open = False
        self.drop()

    # In

    def receive(self, count: int) -> Fault | None:
        """Count *count* received bytes and return None, or return the fault if the peer may not send them."""
        window = self.receive_window
        if self.extended and self.received_end:
            return Code.PROTOCOL, "bytes after fin"
        if self.extended and window.received + count > window.limit:
            return Code.FLOW_CONTROL, "more bytes than credit"
        window.received += count
        return None

    def receive_fin(self, total: int) -> Fault | None:
        """Note that the peer ended its direction after *total* bytes. Return the fault if it has not, or None."""
        window = self.receive_window
        if self.received_end:
            return Code.PROTOCOL, "a second fin"
        if total != window.received:
            return Code.PROTOCOL, f"a fin of {total} bytes where {window.received} came"
        self.received_end = True
        window.end()
        return None
