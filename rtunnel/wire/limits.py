"""The bounds of one link, as the operator of this end sets them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What one link may use, and how long it may be silent. Sizes are bytes, times are seconds.

    :ivar max_frame: largest payload of a frame that this end accepts.
    :ivar initial_credit: bytes that the peer may send on a new stream before it is granted more.
    :ivar max_window: upper bound of the bytes that are granted on one stream and not yet delivered.
    :ivar link_buffer: upper bound of the bytes that are granted on all streams of the link together and not yet
        delivered.
    :ivar max_streams: streams that may be open at once.
    :ivar max_tunnels: tunnels that a client may have at once.
    :ivar keepalive_interval: silence from the peer after which a PING is sent.
    :ivar dead_after: silence from the peer after which the link is dropped; more than ``keepalive_interval``.
    """

    max_frame: int = 64 * 1024
    initial_credit: int = 64 * 1024
    max_window: int = 8 * 1024 * 1024
    link_buffer: int = 512 * 1024 * 1024
    max_streams: int = 8192
    max_tunnels: int = 1024
    keepalive_interval: float = 5.0
    dead_after: float = 15.0


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """What the data channels of one peer connection may use. Sizes are bytes.

    :ivar initial_credit: what the peer may send on a new stream before it is granted more.
    :ivar max_window: upper bound of what is granted on one stream and not yet delivered.
    :ivar peer_buffer: upper bound of what is granted on all streams of the connection together and not yet delivered;
        for a peer without credit, of what is received and not yet delivered.
    :ivar max_streams: channels that may be open at once.
    """

    initial_credit: int = 64 * 1024
    max_window: int = 4 * 1024 * 1024
    peer_buffer: int = 64 * 1024 * 1024
    max_streams: int = 1024
