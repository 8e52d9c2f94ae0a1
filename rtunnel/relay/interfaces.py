"""The interface between a relay and a carrier.

    local socket <-> SocketEnd (IStreamUser) <-> IStream <-> carrier (a link, a data connection, a data channel)

A stream carries bytes in two directions, and each direction has its own end.
"""

from __future__ import annotations

from zope.interface import Interface


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
