"""The interface between a relay and a carrier.

    local socket <-> SocketEnd (IStreamUser) <-> IStream <-> carrier (a link, a data connection, a data channel)

A stream carries bytes in two directions, and each direction has its own end.
"""

from __future__ import annotations

from typing import Protocol

from zope.interface import Interface

from rtunnel.errors import Code
from rtunnel.relay.pipes import Pipe

#: Resets that do not wait for what is pending: nobody takes it, or the peer broke the protocol.
AT_ONCE = (Code.STALLED, Code.PROTOCOL, Code.FLOW_CONTROL)
#: Why a relay has ended, besides a :class:`~rtunnel.errors.Code` of the other end: its own socket was reset; something
#: ended it here; others needed its place; no datagram came any more.
RESET, CLOSED, GAVE_WAY, IDLE = "reset", "closed", "gave-way", "idle"


class IStream(Interface):
    """One end of a stream, offered by its carrier. No method raises. When the stream is over, all do nothing."""

    def write(data: bytes) -> None:
        """Send *data*. The carrier calls :meth:`IStreamUser.pause` when too much of it waits."""

    def finish() -> None:
        """End the sending direction (half-close). A carrier without half-close ends both directions."""

    def reset(code: str, message: str, *, behind: bool = False) -> None:
        """End both directions, not by their proper ends.

        :param code: an :class:`rtunnel.errors.Code`.
        :param message: the reason, for logs.
        :param behind: send what was written first, and then the reset; nothing more is received. Otherwise the reset
            goes at once, and what was written is dropped.
        """

    def delivered(count: int) -> None:
        """Note that *count* bytes of :meth:`IStreamUser.data_received` have left this process's memory."""


class IStreamUser(Interface):
    """The user of a stream, as its carrier sees it."""

    def data_received(data: bytes) -> None:
        """Take bytes from the other end, and call :meth:`IStream.delivered` when they have left memory."""

    def finished() -> None:
        """The other end sends no more. It may still receive."""

    def closed() -> None:
        """The stream is over in both directions. What was received before must still be delivered."""

    def was_reset(code: str, message: str) -> None:
        """The stream broke: both directions ended, not by their proper ends.

        What was received before must still be delivered.

        :param code: an :class:`rtunnel.errors.Code`, or another one that the peer sent.
        :param message: the reason, for logs.
        """

    def pause() -> None:
        """Write no more bytes to the stream for now."""

    def resume() -> None:
        """Write bytes to the stream again."""

    def buffered() -> int:
        """Return how many bytes of memory are taken by what has been delivered and not sent yet."""


class IFar(Protocol):
    """The stream on the far side, as a local socket sees it.

    :ivar payload: where bytes are read to that are to be sent.
    :ivar may_splice: it can send what is in a pipe.
    :ivar held: how many bytes of memory the far side takes, without what is in pipes.
    """

    payload: memoryview

    @property
    def may_splice(self) -> bool: ...
    @property
    def held(self) -> int: ...
    def send_data(self, count: int) -> bool:
        """Send the first *count* bytes of :attr:`payload`. Return False if no more is to be read for now."""

    def send_pipe(self, pipe: Pipe) -> bool:
        """Send what is in *pipe*, and give the pipe back. Return False if no more is to be read for now."""

    def finish(self, count: int = 0) -> bool:
        """Send the first *count* bytes of :attr:`payload`, and the end. Return False if some of that waits."""

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """Reset the stream, and forget the local socket. *behind*: what was sent before goes first."""

    def drop(self) -> None:
        """Take note that this socket gives way, because descriptors are needed."""

    def stop_reading(self) -> None:
        """Deliver no more for now."""

    def resume_reading(self) -> None:
        """Deliver again."""
