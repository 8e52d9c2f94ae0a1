"""What a link tells the I/O around it."""

from __future__ import annotations

from dataclasses import dataclass

from rtunnel.wire.messages import Hello, TunnelRequest
from rtunnel.wire.stream import Stream


@dataclass(slots=True)
class Established:
    """The peer has shown what it speaks: *peer* is its HELLO, or None for a peer of the reference protocol."""

    peer: Hello | None


@dataclass(slots=True)
class TicketsReceived:
    """At the client: the server would like a data connection for each of these, within *expires* seconds."""

    tickets: list[str]
    expires: float


@dataclass(slots=True)
class TunnelRequested:
    """At the server: the client asks for a tunnel under this number."""

    number: int
    request: TunnelRequest


@dataclass(slots=True)
class TunnelReady:
    """At the client: the tunnel is served at this public *address* (``host:port``)."""

    number: int
    address: str


@dataclass(slots=True)
class TunnelRefused:
    """At the client: the tunnel is not served, or no longer. At the server: the INIT could not be accepted."""

    number: int
    code: str
    message: str


@dataclass(slots=True)
class TunnelWithdrawn:
    """At the server: the client gives a tunnel up; its streams go on."""

    number: int


@dataclass(slots=True)
class StreamOpened:
    """At the client: a visitor (``host:port``, empty if unknown) of this tunnel."""

    stream: Stream
    tunnel: int
    visitor: str


@dataclass(slots=True)
class DataReceived:
    """Bytes of a stream. Say :meth:`Link.delivered` once they are out of memory."""

    stream: Stream
    data: bytes


@dataclass(slots=True)
class StreamFinished:
    """The peer sends no more on this stream; the other direction goes on."""

    stream: Stream


@dataclass(slots=True)
class StreamClosed:
    """A peer of the reference protocol closed the stream: deliver what came before, and send no more."""

    stream: Stream


@dataclass(slots=True)
class StreamReset:
    """Both directions ended at once, at the peer's wish or because of what it sent."""

    stream: Stream
    code: str
    message: str


@dataclass(slots=True)
class StreamWritable:
    """What was queued on this stream is low again: its source may go on."""

    stream: Stream


@dataclass(slots=True)
class FrameIgnored:
    """The first of its kind on this link that had no meaning here; later ones are only counted in ``Link.ignored``.

    *is_normal*: this happens between honest peers too, when a stream ends while frames for it are on their way.
    """

    what: str
    is_normal: bool


@dataclass(slots=True)
class LinkFailed:
    """The link is over: send what there is to send, then close the connection."""

    code: str
    message: str
    by_peer: bool


Event = (
    Established
    | TicketsReceived
    | TunnelRequested
    | TunnelReady
    | TunnelRefused
    | TunnelWithdrawn
    | StreamOpened
    | DataReceived
    | StreamFinished
    | StreamClosed
    | StreamReset
    | StreamWritable
    | FrameIgnored
    | LinkFailed
)
