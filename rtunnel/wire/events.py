"""The events that a link returns to the I/O around it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rtunnel.wire.messages import Hello
from rtunnel.wire.stream import Stream
from rtunnel.wire.tunnel_request import TunnelRequest


@dataclass(slots=True)
class Established:
    """The mode of the link is settled: *peer* is the peer's HELLO, or None on a reference link."""

    peer: Hello | None


@dataclass(slots=True)
class KeysReceived:
    """KEYS has come; see :mod:`rtunnel.wire.data.keys`."""

    payload: bytes


@dataclass(slots=True)
class TicketsReceived:
    """At the client: the server wants *count* data connections, with the tickets from *first*, within *expires* s."""

    first: int
    count: int
    expires: float


@dataclass(slots=True)
class PathOffered:
    """At the client: the server takes packets of the UDP path *id*. *port* is as in PATH."""

    id: int
    port: int


@dataclass(slots=True)
class TunnelRequested:
    """At the server: the client asks for tunnel *number*, or only whether it would get it."""

    number: int
    request: TunnelRequest


@dataclass(slots=True)
class TunnelReady:
    """At the client: tunnel *number* is served at the public *address* (``host:port``); empty: it would be served."""

    number: int
    address: str


@dataclass(slots=True)
class TunnelRefused:
    """At the client: tunnel *number* is not served, or no longer. At the server: the link has refused an INIT."""

    number: int
    code: str
    message: str


@dataclass(slots=True)
class TunnelWithdrawn:
    """At the server: the client gives up tunnel *number*, with this *code* of ERROR. Its streams continue."""

    number: int
    code: str = field(default="", compare=False)


@dataclass(slots=True)
class TunnelState:
    """At the server: whether the service of tunnel *number* answers, and *why* it does not."""

    number: int
    is_ready: bool
    why: str


@dataclass(slots=True)
class TunnelNotice:
    """At the client: *message* is what its operator should know about tunnel *number*."""

    number: int
    message: str


@dataclass(slots=True)
class StreamOpened:
    """At the client: a visitor of *tunnel* has come. *visitor* is its address, ``host:port``; empty if unknown."""

    stream: Stream
    tunnel: int
    visitor: str


@dataclass(slots=True)
class DataReceived:
    """Bytes of a stream have come. Call :meth:`Link.delivered` when they have left memory."""

    stream: Stream
    data: bytes


@dataclass(slots=True)
class StreamFinished:
    """The peer sends no more on this stream. The other direction continues."""

    stream: Stream


@dataclass(slots=True)
class StreamMoved:
    """The peer sends no more of this stream on the link, and goes on on the stream's data connection.

    Read that one only when nothing that came on the link waits to be delivered: ``stream.receive_window.waiting == 0``.
    """

    stream: Stream


@dataclass(slots=True)
class StreamLeft:
    """Our MOVE has gone out, and nothing more of the stream comes on the link."""

    stream: Stream


@dataclass(slots=True)
class StreamClosed:
    """The stream of a reference link is over: deliver what came before, and send no more."""

    stream: Stream


@dataclass(slots=True)
class StreamReset:
    """Both directions ended at once, because the peer reset the stream or broke its rules."""

    stream: Stream
    code: str
    message: str


@dataclass(slots=True)
class StreamWritable:
    """The queue of this stream is short again: its source may resume."""

    stream: Stream


@dataclass(slots=True)
class FrameIgnored:
    """The first meaningless frame of its kind has come. Later ones are only counted, in ``Link.ignored``.

    *is_normal*: this also happens between honest peers, when a stream ends while frames for it are on their way.
    """

    what: str
    is_normal: bool


@dataclass(slots=True)
class LinkFailed:
    """The link is over: send what is queued, then close the connection."""

    code: str
    message: str
    by_peer: bool


Event = (
    Established
    | KeysReceived
    | TicketsReceived
    | PathOffered
    | TunnelRequested
    | TunnelReady
    | TunnelRefused
    | TunnelWithdrawn
    | TunnelState
    | TunnelNotice
    | StreamOpened
    | DataReceived
    | StreamFinished
    | StreamMoved
    | StreamLeft
    | StreamClosed
    | StreamReset
    | StreamWritable
    | FrameIgnored
    | LinkFailed
)
