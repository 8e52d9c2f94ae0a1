"""Every error of ours, in two families: what the operator did, and what the peer did.

The docstring of an error says what it means to the person who reads the log. Errors of the second family, and the
reasons for which streams and tunnels end, carry the ``code`` that travels in an ERROR frame (docs/wire.rst).
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """The ``code`` of an ERROR frame. A peer may send others; they are shown as they came."""

    #: The peer broke the protocol; the message says how.
    PROTOCOL = "protocol-error"
    #: More DATA than credit, or credit that cannot be.
    FLOW_CONTROL = "flow-control"
    #: One of our limits is reached (streams, tunnels, buffer of a link).
    LIMIT = "limit"
    #: INIT does not name a port.
    BAD_REQUEST = "bad-request"
    #: The port is outside what the server allows to clients.
    PORT_NOT_ALLOWED = "port-not-allowed"
    #: Somebody else holds the port: another client, or another program of the machine.
    PORT_IN_USE = "port-in-use"
    #: The server's system does not give the port.
    PORT_UNAVAILABLE = "port-unavailable"
    #: Port 0 was asked for, and the server has no shared public port.
    NO_SHARED_PORT = "no-shared-port"
    #: A server of the reference protocol serves one tunnel only.
    NOT_SUPPORTED = "not-supported"
    #: NEW_CONN names a tunnel that the client does not have.
    UNKNOWN_TUNNEL = "unknown-tunnel"
    #: The local service refused the connection or cannot be reached.
    LOCAL_UNREACHABLE = "local-unreachable"
    #: The local service did not accept in time.
    LOCAL_TIMEOUT = "local-timeout"
    #: The socket at the sender's side was reset or timed out.
    CONNECTION_LOST = "connection-lost"
    #: A peer without flow control sent more than anybody wants to read.
    STALLED = "stalled"
    #: The same client came back over another link.
    TAKEN_OVER = "taken-over"
    #: The sender is going down, or gives this tunnel up.
    SHUTTING_DOWN = "shutting-down"
    #: Nothing was heard from the peer for too long.
    TIMEOUT = "timeout"
    #: The service that a data channel names does not exist, or is not of its kind.
    UNKNOWN_SERVICE = "unknown-service"
    #: The peer may not use this server: no token or a wrong one, or its name is not among those that may.
    UNAUTHORIZED = "unauthorized"


class RtunnelError(Exception):
    """The base of all errors of this package."""


class ConfigError(RtunnelError, ValueError):
    """A setting is wrong. The message names its source, its key, and the likely fix."""


class PkiError(RtunnelError):
    """Certificates or keys cannot be made, read or kept as asked. The message says which, and what to do."""


class StartupError(SystemExit, RtunnelError):
    """The service cannot start, and the process ends with this one line and exit code 1.

    It is an ``Exception``, so that ``twistd`` cleans up (pid file, waiting parent), and a ``SystemExit``, so that the
    interpreter then prints the line without a traceback.
    """


class PeerError(RtunnelError):
    """The peer sent what cannot be accepted. Its link is closed."""

    code = Code.PROTOCOL


class FrameTooLarge(PeerError):
    """A frame's length is above the limit: not our protocol, or an attack."""


class BadSignal(PeerError):
    """A signaling message cannot be understood; the message says what came."""


class BadDescription(PeerError):
    """An offer or answer is no SDP, has media or no data channel, or lacks what is needed to connect."""


class TooMuchWaiting(PeerError):
    """The peer makes us answer and does not read the answers."""

    code = Code.LIMIT


class TlsFailed(PeerError):
    """A connection has no TLS, or not the TLS that we ask for, or the certificate of its other end is not accepted."""

    code = Code.UNAUTHORIZED


class TunnelRefused(RtunnelError):
    """The server cannot serve a tunnel, or a client asked for one that it may not have.

    :ivar code: a :class:`Code`, or what the peer sent in its place.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
