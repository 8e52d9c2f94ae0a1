"""The bounds of a link and of a peer connection, as the operator of this end sets them (docs/wire.rst, "Bounds")."""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Seconds between two signs of life, if only the other end wants them that often.
SHORTEST_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What one link may use, and how long its peer may be silent. Sizes are in bytes, times in seconds.

    :ivar max_frame: the largest payload of a frame that this end accepts.
    :ivar initial_credit: how much the peer may send on a new stream before it is granted more.
    :ivar max_window: the most that may be granted and not yet delivered on one stream.
    :ivar link_buffer: the most that may be granted and not yet delivered on all streams of the link.
    :ivar max_streams: how many streams may be open at once.
    :ivar max_tunnels: how many tunnels a client may have at once.
    :ivar keepalive_interval: after this much silence, this end sends a PING; and after having sent nothing for so long
        on a data connection, a sign of life.
    :ivar dead_after: after this much silence, this end drops the link; more than ``keepalive_interval``.
    """

    max_frame: int = 64 * 1024
    initial_credit: int = 64 * 1024
    max_window: int = 8 * 1024 * 1024
    link_buffer: int = 512 * 1024 * 1024
    max_streams: int = 8192
    max_tunnels: int = 1024
    keepalive_interval: float = 5.0
    dead_after: float = 15.0

    def heard_within(self, dead_after: float | None) -> LinkLimits:
        """Return limits by which the other end of a data connection hears of this one in time.

        :param dead_after: the seconds of silence after which it gives up; None: it has not said.
        """
        interval = None if dead_after is None else max(dead_after / 3, SHORTEST_INTERVAL)
        if interval is None or interval >= self.keepalive_interval:
            return self
        return replace(self, keepalive_interval=interval)


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """What the data channels of one peer connection may use. Sizes are in bytes.

    :ivar initial_credit: how much the peer may send on a new stream before it is granted more.
    :ivar max_window: the most that may be granted and not yet delivered on one stream.
    :ivar peer_buffer: the most that may be granted and not yet delivered on all streams of the connection; with a peer
        without credit, the most that may be received and not yet delivered.
    :ivar max_streams: how many channels may be open at once.
    """

    initial_credit: int = 64 * 1024
    max_window: int = 4 * 1024 * 1024
    peer_buffer: int = 64 * 1024 * 1024
    max_streams: int = 1024
