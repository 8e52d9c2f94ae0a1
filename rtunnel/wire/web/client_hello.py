"""The ClientHello with which a TLS connection begins: whose name it asks for, before anybody has a key (RFC 8446).

    record = 22 version(2) length(2) fragment         the hello may be spread over several, cut anywhere
    hello  = 1 length(3) version(2) random(32) session-id<1> cipher-suites<2> compression<1> extensions<2>

Here ``<n>`` is a vector with a length of n bytes. Of the extensions, this reads ``server_name`` (RFC 6066) and the
protocols of ALPN (RFC 7301). A hello that two programs could read differently is refused, because the one at the other
end of the tunnel has to find the same name: lengths must fit exactly, and no extension may be there twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

#: The most bytes of a hello that are read, headers of records included. A browser sends 2 KB with a post-quantum key,
#: and a session ticket that holds a certificate chain may add several. One record has 16 KiB at most, where nginx and
#: HAProxy stop too; this leaves room for a hello that somebody has cut into small records.
MOST = 32 * 1024
#: Descriptions of fatal alerts.
DECODE_ERROR, INTERNAL_ERROR, UNRECOGNIZED_NAME = 50, 80, 112
_ALERT, _HANDSHAKE = 21, 22
_BEGINS = bytes((_HANDSHAKE, 3))
_CLIENT_HELLO = 1
_RECORD = Struct("!BHH")
_LONGEST_RECORD = 1 << 14
_EXTENSION = Struct("!HH")
_SERVER_NAME, _ALPN, _ECH = 0, 16, 0xFE0D
_HOST_NAME = 0
_LONGEST_NAME = 255
#: Behind the version and the random number.
_SESSION_ID = 34
_TOO_LONG = f"its hello is longer than {MOST} bytes"
_WRONG = "a length in its hello is wrong"


class BadHello(ValueError):
    """What came is no ClientHello, or a broken one. The text says which, for a log.

    :ivar is_tls: whether it is TLS, so that the other end understands an alert.
    """

    def __init__(self, text: str, *, is_tls: bool = True) -> None:
        super().__init__(text)
        self.is_tls = is_tls


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client asks for.

    :ivar name: the host name, as it was sent: printable ASCII of 1 to 255 characters; None: it gives none.
    :ivar alpn: the application protocols that it offers, in its order.
    :ivar has_ech: whether it offers encrypted client hello (RFC 9849), so that *name* is the outer one. Browsers send
        something of that form to every server.
    """

    name: str | None = None
    alpn: tuple[bytes, ...] = ()
    has_ech: bool = False


class HelloReader:
    """One ClientHello that is being read, in pieces of any size.

    :ivar raw: all that was taken, for whoever ends TLS.
    """

    __slots__ = ("_message", "_next", "raw")

    def __init__(self) -> None:
        self.raw = bytearray()
        # Where the next record begins, and what the ones before have brought.
        self._next = 0
        self._message = bytearray()

    def take(self, data: bytes) -> ClientHello | None:
        """Take the next bytes. Return the hello, or None if it is not complete.

        :raises BadHello: it is none.
        """
        raw, message = self.raw, self._message
        raw += data
        if not _BEGINS.startswith(raw[: len(_BEGINS)]):
            raise BadHello("that is no TLS", is_tls=False)
        while len(raw) >= self._next + _RECORD.size:
            kind, version, length = _RECORD.unpack_from(raw, self._next)
            if kind != _HANDSHAKE or version >> 8 != 3:
                raise BadHello(f"a record of type {kind} and version {version:#06x} in its hello")
            if not 0 < length <= _LONGEST_RECORD:
                raise BadHello(f"a record of {length} bytes in its hello")
            start = self._next + _RECORD.size
            if len(raw) < start + length:
                break
            self._next = start + length
            message += raw[start : self._next]
            if len(message) >= 4:
                if message[0] != _CLIENT_HELLO:
                    raise BadHello(f"it begins with a handshake message of type {message[0]}")
                end = 4 + int.from_bytes(message[1:4])
                if len(message) >= end:
                    # What follows is for whoever ends TLS, who will not like it.
                    return read_hello(message[4:end])
                if end > MOST:
                    raise BadHello(_TOO_LONG)
        if len(raw) > MOST:
            raise BadHello(_TOO_LONG)
        return None


def read_hello(body: bytes | bytearray) -> ClientHello:
    """Read a ClientHello without the header of the message.

    :raises BadHello: it is malformed.
    """
    start, end = _vector(body, _SESSION_ID, 1)
    suites, suites_end = _vector(body, end, 2)
    methods, methods_end = _vector(body, suites_end, 1)
    if end - start > 32 or suites == suites_end or (suites_end - suites) % 2 or methods == methods_end:
        raise BadHello(_WRONG)
    if methods_end == len(body):
        return ClientHello()
    at, end = _vector(body, methods_end, 2)
    if end != len(body):
        raise BadHello(_WRONG)
    name: str | None = None
    alpn: tuple[bytes, ...] = ()
    seen = set()
    while at < end:
        if end - at < _EXTENSION.size:
            raise BadHello(_WRONG)
        kind, length = _EXTENSION.unpack_from(body, at)
        start = at + _EXTENSION.size
        at = start + length
        if at > end:
            raise BadHello(_WRONG)
        if kind in seen:
            raise BadHello(f"its extension {kind} is there twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _server_name(body[start:at])
        elif kind == _ALPN:
            alpn = _protocols(body[start:at])
    return ClientHello(name, alpn, _ECH in seen)


def _vector(data: bytes | bytearray, at: int, width: int) -> tuple[int, int]:
    """Return where the content of a vector begins and ends, whose length of *width* bytes is at *at*."""
    start = at + width
    end = start + int.from_bytes(data[at:start])
    if max(start, end) > len(data):
        raise BadHello(_WRONG)
    return start, end


def _whole_vector(data: bytes | bytearray) -> bytes | bytearray:
    start, end = _vector(data, 0, 2)
    if start == end or end != len(data):
        raise BadHello(_WRONG)
    return data[start:]


def _server_name(data: bytes | bytearray) -> str | None:
    names = _whole_vector(data)
    found: str | None = None
    at = 0
    while at < len(names):
        kind = names[at]
        start, at = _vector(names, at + 1, 2)
        if kind != _HOST_NAME:
            continue
        name = names[start:at].decode("ascii", "replace")
        if found is not None:
            raise BadHello("it asks for two host names")
        if not 0 < len(name) <= _LONGEST_NAME or not (name.isascii() and name.isprintable()):
            raise BadHello("it asks for what is no host name")
        found = name
    return found


def _protocols(data: bytes | bytearray) -> tuple[bytes, ...]:
    protocols = _whole_vector(data)
    found = []
    at = 0
    while at < len(protocols):
        start, at = _vector(protocols, at, 1)
        if start == at:
            raise BadHello(_WRONG)
        found.append(bytes(protocols[start:at]))
    return tuple(found)


def fatal_alert(description: int) -> bytes:
    """Return a record with which a server refuses a hello."""
    return bytes((_ALERT, 3, 3, 0, 2, 2, description))
