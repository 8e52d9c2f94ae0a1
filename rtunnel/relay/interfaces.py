"""What a relay and a carrier know of each other.

    local socket <-> SocketEnd (IStreamUser) <-> IStream <-> carrier (a link, later a data connection or a channel)

A stream carries bytes both ways, each way with its own end. Nothing here says how it travels.
"""

from __future__ import annotations

from zope.interface import Interface


class IStream(Interface):
    """One end of a stream, as its carrier offers it. No method raises; on a stream that is over all do nothing."""

    def write(data: bytes) -> None:
        """Send *data*. The user is told to :meth:`IStreamUser.pause` when enough is waiting."""

    def finish() -> None:
        """Send no more: half-close. A carrier without half-close ends both directions."""

    def reset(code: str, message: str) -> None:
        """End both directions at once.

        :param code: an :class:`rtunnel.errors.Code`.
        """

    def delivered(count: int) -> None:
        """*count* bytes given to :meth:`IStreamUser.data_received` have left this process's memory."""


class IStreamUser(Interface):
    """What a carrier tells the user of a stream."""

    def data_received(data: bytes) -> None:
        """Bytes from the other end. Say :meth:`IStream.delivered` once they are out of memory."""

    def finished() -> None:
        """The other end sends no more; it may still receive."""

    def closed() -> None:
        """The stream is over in both directions; what was received before is still to be delivered."""

    def was_reset(code: str, message: str) -> None:
        """Both directions ended at once: the stream did not come to its proper end."""

    def pause() -> None:
        """Give the stream no more bytes for now."""

    def resume() -> None:
        """The stream takes bytes again."""
