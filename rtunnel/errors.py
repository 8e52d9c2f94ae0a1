"""The errors of this package, in two families: mistakes of the operator, and faults of the peer.

The docstring of an error says what it means in the log. The faults of a peer, and the reasons for which streams and
tunnels end, carry the ``code`` of an ERROR frame (docs/wire.rst).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Code(StrEnum):
    """The ``code`` of an ERROR frame. A peer may send other codes; the log shows them as they are."""

    #: The peer broke the protocol; the message says how.
    PROTOCOL = "protocol-error"
    #: The peer sent more DATA than it had credit for, or granted an impossible credit.
    FLOW_CONTROL = "flow-control"
    #: A limit of the sender is reached (streams, tunnels, buffer of a link).
    LIMIT = "limit"
    #: INIT does not name a port.
    BAD_REQUEST = "bad-request"
    #: The server does not allow clients to have this port.
    PORT_NOT_ALLOWED = "port-not-allowed"
    #: Another client or another program of the machine has the port.
    PORT_IN_USE = "port-in-use"
    #: The server's operating system refuses the port.
    PORT_UNAVAILABLE = "port-unavailable"
    #: The client asked for port 0, and the server has no shared public port.
    NO_SHARED_PORT = "no-shared-port"
    #: The server does not allow the client to have this host name.
    HOST_NOT_ALLOWED = "host-not-allowed"
    #: Another client has the host name.
    HOST_IN_USE = "host-in-use"
    #: The server's cluster cannot be asked now whether the client may have the place.
    CLUSTER_AWAY = "cluster-away"
    #: A server of the reference protocol serves only one tunnel.
    NOT_SUPPORTED = "not-supported"
    #: NEW_CONN names a tunnel that the client does not have.
    UNKNOWN_TUNNEL = "unknown-tunnel"
    #: The local service refused the connection or cannot be reached.
    LOCAL_UNREACHABLE = "local-unreachable"
    #: The local service did not accept in time.
    LOCAL_TIMEOUT = "local-timeout"
    #: The socket at the sender's side was reset or timed out.
    CONNECTION_LOST = "connection-lost"
    #: A peer without flow control sent more than the other side read.
    STALLED = "stalled"
    #: The same client reconnected over another link.
    TAKEN_OVER = "taken-over"
    #: The sender is shutting down, or gives up this tunnel.
    SHUTTING_DOWN = "shutting-down"
    #: The operator of the sender has ended this link.
    DISCONNECTED = "disconnected"
    #: Nothing was heard from the peer for too long.
    TIMEOUT = "timeout"
    #: The service that a data channel names does not exist, or has the other protocol (TCP or UDP).
    UNKNOWN_SERVICE = "unknown-service"
    #: The peer may not use this server: its token is missing or wrong, or its name is not listed.
    UNAUTHORIZED = "unauthorized"


#: Most characters of the text of an error. Ours have a few hundred, and what they quote may have millions.
MAX_TEXT = 1000


def one_line(text: str) -> str:
    """Return *text* as one printable line of at most :data:`MAX_TEXT` characters.

    Its middle is cut out, since our errors begin with the place of a mistake and end with the remedy.
    """
    if len(text) > 2 * MAX_TEXT:
        text = text[:MAX_TEXT] + text[-MAX_TEXT:]
    if not text.isprintable():
        text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
    half = MAX_TEXT // 2
    return text if len(text) <= MAX_TEXT else f"{text[:half]} ... {text[5 - half :]}"


class RtunnelError(Exception):
    """The base of all errors of this package. Their texts may quote any input, and are still one line; see
    :func:`one_line`."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(one_line(each) if isinstance(each, str) else each for each in args))


class ConfigError(RtunnelError, ValueError):
    """A setting is wrong. The message names its source, its key, and the likely fix.

    :ivar at: keys, and indices of list entries, that lead from the value that was read to what is wrong in it.
    """

    def __init__(self, message: str, at: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.at = tuple(at)

    def within(self, label: str, *at: str | int) -> ConfigError:
        """Return the same error about a larger value.

        :param label: what the message begins with then.
        :param at: leads from the larger value to this one.
        """
        return ConfigError(f"{label}{self}", (*at, *self.at))


class PkiError(RtunnelError):
    """A certificate or key cannot be made, read or stored. The message says which, and what to do."""


class StartupError(SystemExit, RtunnelError):
    """The service cannot start, and the process ends with this one line and exit code 1.

    It is an ``Exception``, so that ``twistd`` cleans up (pid file, waiting parent), and a ``SystemExit``, so that the
    interpreter prints the line without a traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class PeerError(RtunnelError):
    """The peer sent something that cannot be accepted. Its link is closed."""

    code = Code.PROTOCOL


class FrameTooLarge(PeerError):
    """A frame is longer than the limit: the peer speaks another protocol, or is an attacker."""


class BadSignal(PeerError):
    """A signaling message cannot be understood. The error message quotes it."""


class BadDescription(PeerError):
    """An offer or answer is not SDP, has media, has no data channel, or lacks what is needed to connect."""


class TooMuchWaiting(PeerError):
    """The peer makes this end send answers but does not read them."""

    code = Code.LIMIT


class TlsFailed(PeerError):
    """A connection lacks TLS or the required kind of TLS, or the certificate of its other end is not accepted."""

    code = Code.UNAUTHORIZED


class ProxyFailed(RtunnelError):
    """A proxy on the way to the server cannot be reached, refuses, or does not answer as a proxy does."""


class Refused(RtunnelError):
    """The server cannot serve a tunnel, or the client may not have it.

    :ivar code: a :class:`Code`, or another code that the peer sent.
    :ivar detail: what only the server's operator may know, such as who has the port; may be empty.
    """

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail
