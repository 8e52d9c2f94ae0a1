"""Sockets: set their options, take them from Twisted, close them, and show their addresses."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv6Address as IPv6, ip_address
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IPushProducer, ISystemHandle, ITCPTransport
from twisted.internet.protocol import Factory

if TYPE_CHECKING:
    from twisted.internet import tcp

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]


class SocketTransport(Protocol):
    """The part of Twisted's transport of a TCP or UNIX connection that we use."""

    def write(self, data: bytes) -> None: ...
    def writeSequence(self, data: list[bytes]) -> None: ...
    def loseConnection(self) -> None: ...
    def loseWriteConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def getPeer(self) -> IAddress: ...
    def getHost(self) -> IAddress: ...


class StreamSocket(Protocol):
    """The part of a connected, non-blocking socket that a relay uses."""

    def fileno(self) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    def close(self) -> None: ...


def below_tls(transport: Any) -> Any:
    """Return the transport that has the socket: *transport* itself, or the one below a TLS transport."""
    return getattr(transport, "tcp", transport)


#: Keepalive of a socket that nothing else keeps alive, in seconds: the silence after which the kernel probes, and that
#: after which it gives up. NATs and load balancers forget a silent connection after a few minutes.
PROBE_AFTER, GIVE_UP_AFTER = 60, 180


def tune(transport: Any) -> None:
    """Set ``TCP_NODELAY`` and keepalive, if this is TCP. A TLS transport does that to the one below it."""
    if ITCPTransport.providedBy(transport):
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        handle: Any = ISystemHandle(transport, None)
        if handle is not None:
            _keep_alive(handle.getHandle())


def tune_socket(sock: socket.socket) -> None:
    """Like :func:`tune`, for a bare TCP socket. Sockets inherit this from the listening one."""
    with suppress(OSError):  # a lost connection shows at its first use
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    _keep_alive(sock)


#: When the kernel probes a silent TCP connection that has ``SO_KEEPALIVE``, where one can say so.
_PROBES = tuple(
    (getattr(socket, name), value)
    for name, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER),
        ("TCP_KEEPINTVL", PROBE_AFTER),
        ("TCP_KEEPCNT", GIVE_UP_AFTER // PROBE_AFTER - 1),
    )
    if hasattr(socket, name)
)


def _keep_alive(sock: StreamSocket) -> None:
    with suppress(OSError):  # not TCP; or a lost connection, which shows at its first use
        for option, value in _PROBES:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def tune_link(transport: Any, dead_after: float) -> None:
    """Make the kernel probe an idle link early, where it can (Linux): a reference peer does not answer PING.

    See docs/wire.rst, "With a reference peer".

    :param dead_after: in seconds. The kernel probes after a third of this. It gives up a peer that answers no probe or
        acknowledges no data after four times this, since a reference peer may stop reading for a while.
    """
    transport = below_tls(transport)
    if not ITCPTransport.providedBy(transport):
        return
    # Linux accepts at most 32767 s and 2**31 - 1 ms.
    probe = min(max(1, int(dead_after / 3)), 32767)
    options = {
        "TCP_KEEPIDLE": probe,
        "TCP_KEEPINTVL": probe,
        "TCP_USER_TIMEOUT": min(int(4 * dead_after * 1000), 2**31 - 1),
    }
    handle: Any = ISystemHandle(transport).getHandle()
    if handle.family not in (socket.AF_INET, socket.AF_INET6):
        return  # Twisted's UNIX connections also provide ITCPTransport
    for name, value in options.items():
        if hasattr(socket, name):
            handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def is_closing(transport: tcp.Connection) -> bool:
    """Return whether a transport of Twisted is closed, half-closed, or about to be."""
    # Only these private attributes tell that it was aborted or half-closed.
    is_closing = transport.disconnecting or transport._aborting or transport._writeDisconnecting
    return not transport.connected or bool(is_closing)


def take_socket(transport: Any) -> tuple[socket.socket, bytes]:
    """Take the socket of a connection away from Twisted. Its protocol is not called any more.

    :param transport: the transport of a TCP or UNIX connection that is not under TLS.
    :return: the socket, which does not block, and the bytes that were written to the transport but not sent yet.
    :raises ValueError: the transport has no connected socket, or is closing.
    """
    from twisted.internet import tcp

    # A TLS transport would hand out the socket below it.
    if not isinstance(transport, tcp.Connection) or transport.TLS:
        raise ValueError(f"{type(transport).__name__} has no socket of its own")
    if is_closing(transport):
        raise ValueError("the connection is closed, or about to be")
    transport.stopReading()
    transport.stopWriting()
    # The reactor may still deliver an event that it has already read from the system.
    transport.doRead = transport.doWrite = _do_nothing  # type: ignore[method-assign]
    unsent = bytes(transport.dataBuffer[transport.offset :]) + b"".join(transport._tempDataBuffer)
    # A transport in this state ignores every call.
    transport.connected = 0
    transport.disconnected = 1
    handle = transport.getHandle()
    family, kind, proto = handle.family, handle.type, handle.proto
    # One end of a pair stays one.
    move = getattr(handle, "moved", None)
    sock = socket.socket(family, kind, proto, handle.detach()) if move is None else move()
    sock.setblocking(False)
    transport.protocol = None  # type: ignore[assignment]
    break_cycles(transport)
    return sock, unsent


def break_cycles(transport: Any) -> None:
    """Separate the transport of a connection that is over from what Twisted dialled it with.

    They refer to each other and to the protocol, so all of it would stay until the garbage collector comes.
    """
    connector = getattr(transport, "connector", None)
    if connector is not None:
        connector.factory = connector.transport = None


def _do_nothing() -> None:
    pass


#: Values of ``SO_LINGER`` for ``close``: drop unsent bytes and send RST, or send them and FIN.
RESET_ON_CLOSE, SEND_ON_CLOSE = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


def set_linger(sock: StreamSocket, value: bytes) -> None:
    """Set ``SO_LINGER``, one of the two values above. It makes no difference to a UNIX socket."""
    with suppress(OSError):  # a lost connection shows at its next use
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)


def close_socket(sock: StreamSocket, *, reset: bool) -> None:
    """Close a socket, whatever its ``SO_LINGER`` was.

    :param reset: drop unsent bytes and send RST, so that the other end sees an error and not an end.
    """
    set_linger(sock, RESET_ON_CLOSE if reset else SEND_ON_CLOSE)
    with suppress(OSError):
        sock.close()


def clear_user_timeout(sock: StreamSocket) -> None:
    """Undo the time-out that :func:`tune_link` may have set: the other end may stop reading for any time."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):  # not a TCP connection, or lost already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


#: How many descriptors a process takes if the system lets it: as many as our units ask for.
ENOUGH = 65536


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as the hard limit allows, but no more than :data:`ENOUGH`.

    A low soft limit is for programs that use ``select()``. A shell's is often 1,024, which is few for a server.
    """
    if hasattr(resource, "setrlimit"):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
        if soft != resource.RLIM_INFINITY and soft < most:
            with suppress(OSError, ValueError):  # macOS has a limit below the hard one
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def descriptor_limit() -> int:
    """Return how many descriptors this process may open; a million if the system has no limit or does not say."""
    if not hasattr(resource, "getrlimit"):
        return 1 << 20
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


class QuietFactory(Factory):
    """A factory whose start and stop Twisted does not log, because our own log lines do."""

    noisy = False


def plain_host(host: str) -> str:
    """Return an IP address as the system has written it, but one that is mapped into IPv6 as IPv4."""
    return host.removeprefix("::ffff:") if "." in host else host


def format_host_port(host: str, port: int) -> str:
    """Return ``host:port``, with brackets round an IPv6 address. An IPv4-mapped address is shown as IPv4."""
    host = plain_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_prefix(address: IAddress | None) -> str:
    """Return the key under which budgets and limits count an address: an IPv4 address, or the /64 of an IPv6 address.

    :returns: text; empty if *address* is not an IP address.
    """
    text = getattr(address, "host", None)
    return _prefix(text) if isinstance(text, str) else ""


def text_prefix(text: str) -> str:
    """Return :func:`address_prefix` for *text*, which :func:`format_address` has returned; *text* if it has none."""
    try:
        return _prefix(text.partition(" ")[0].rpartition(":")[0].strip("[]"))
    except ValueError:
        return text


@lru_cache(1024)
def _prefix(text: str) -> str:
    host = ip_address(text.partition("%")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    if host.version == 6 and mapped is None:
        return str(IPv6(int(host) >> 64 << 64))
    return str(mapped or host)


def is_local(address: IAddress) -> bool:
    """Return whether *address* exists only on this machine: loopback, or a UNIX socket."""
    if isinstance(address, IPv4Address | IPv6Address):
        host = ip_address(address.host.partition("%")[0])
        return (getattr(host, "ipv4_mapped", None) or host).is_loopback
    return True


def format_address(address: IAddress) -> str:
    """Return *address* as it stands in logs and on the wire."""
    if isinstance(address, IPv4Address | IPv6Address):
        return format_host_port(address.host, address.port)
    name = getattr(address, "name", None)
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    return f"unix:{name}" if name else "local"
