"""What we ask of every socket, and how an address is shown."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IPushProducer, ISystemHandle, ITCPTransport
from twisted.internet.protocol import Factory

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]


class SocketTransport(Protocol):
    """The transport of a TCP or UNIX connection, in the parts that we use."""

    bufferSize: int

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
    """A connected socket, which does not block, in the parts that a relay uses."""

    def fileno(self) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...
    def close(self) -> None: ...


def below_tls(transport: Any) -> Any:
    """The transport that has the socket: *transport* itself, or what a TLS transport runs over."""
    return getattr(transport, "tcp", transport)


def tune(transport: Any) -> None:
    """Ask for no delay of small writes, and for keepalive probes."""
    transport = below_tls(transport)
    if ITCPTransport.providedBy(transport):
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)


def tune_socket(sock: socket.socket) -> None:
    """The same for a bare TCP socket. What a listening socket is asked holds for those that it accepts."""
    with suppress(OSError):  # it is lost already, which its first use shows
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def tune_link(transport: Any, dead_after: float) -> None:
    """Ask for keepalive probes soon, where the system lets us (Linux): a reference peer cannot be asked otherwise.

    :param dead_after: in seconds. A peer that answers no probe, or acknowledges nothing, is given up after four times
        that, as a reference peer may rightly stop reading for a while.
    """
    transport = below_tls(transport)
    if not ITCPTransport.providedBy(transport):
        return
    # Linux takes no more than 32767 s and 2**31 - 1 ms.
    probe = min(max(1, int(dead_after / 3)), 32767)
    options = {
        "TCP_KEEPIDLE": probe,
        "TCP_KEEPINTVL": probe,
        "TCP_USER_TIMEOUT": min(int(4 * dead_after * 1000), 2**31 - 1),
    }
    handle: Any = ISystemHandle(transport).getHandle()
    if handle.family not in (socket.AF_INET, socket.AF_INET6):
        return  # Twisted says that its UNIX connections are TCP
    for name, value in options.items():
        if hasattr(socket, name):
            handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


#: What ``close`` does with a socket, as ``SO_LINGER`` says it: drop what is not sent and reset, or send it and the end.
RESET_ON_CLOSE, SEND_ON_CLOSE = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


def close_socket(sock: StreamSocket, *, reset: bool) -> None:
    """Close a socket, whatever it was told before of how; *reset*: say to the other end that this was not the end."""
    with suppress(OSError):  # it is closed all the same
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE if reset else SEND_ON_CLOSE)
    with suppress(OSError):
        sock.close()


def let_stall(sock: StreamSocket) -> None:
    """Take back what :func:`tune_link` may have asked: the other end may stop reading for as long as it likes."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):  # it is no TCP connection, or lost already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


def descriptor_limit() -> int:
    """How many descriptors this process may have; a million where the system does not say or knows no limit."""
    if not hasattr(resource, "getrlimit"):
        return 1 << 20
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


class QuietFactory(Factory):
    """A factory of which Twisted does not log that it starts and stops: we say that ourselves."""

    noisy = False


def show_host_port(host: str, port: int) -> str:
    """``host:port``, with brackets round an IPv6 address; an IPv4 address in IPv6 clothes is shown as what it is."""
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_local(address: IAddress) -> bool:
    """Whether only this machine has *address*: a loopback address, a UNIX socket."""
    if isinstance(address, IPv4Address | IPv6Address):
        host = ip_address(address.host.partition("%")[0])
        return (getattr(host, "ipv4_mapped", None) or host).is_loopback
    return True


def show_address(address: IAddress) -> str:
    """An address as it stands in logs and on the wire."""
    if isinstance(address, IPv4Address | IPv6Address):
        return show_host_port(address.host, address.port)
    name = getattr(address, "name", None)
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    return f"unix:{name}" if name else "local"
