"""The ClientHello with which a TLS connection begins: whose name it asks for, before anybody has a key (RFC 8446).

    record = 22 version(2) length(2) fragment         the hello may be spread over several, cut anywhere
    hello  = 1 length(3) version(2) random(32) session-id<1> cipher-suites<2> compression<1> extensions<2>

Here ``<n>`` is a vector with a length of n bytes. Of the extensions, this reads ``server_name`` (RFC 6066) and the
protocols of ALPN (RFC 7301). A hello that two programs could read differently is refused, because the one at the other
end of the tunnel has to find the same name: lengths must fit exactly, and no extension may be there twice.
"""

from __future__ import annotations

from struct import Struct, error as StructError
from typing import NamedTuple

#: The most bytes of a hello that are read, headers of records included. A browser sends 2 KB with a post-quantum key,
#: and a session ticket that holds a certificate chain may add several. One record has 16 KiB at most, where nginx and
#: HAProxy stop too; this leaves room for a hello that somebody has cut into small records.
MOST = 32 * 1024
#: Descriptions of fatal alerts.
DECODE_ERROR, INTERNAL_ERROR, UNRECOGNIZED_NAME = 50, 80, 112
#: Types of records.
ALERT, _HANDSHAKE = 21, 22
_BEGINS = bytes((_HANDSHAKE, 3))
_CLIENT_HELLO = 1
_RECORD = Struct("!BHH")
_HEADERS = Struct("!BHHI")
_LONGEST_RECORD = 1 << 14
_EXTENSION = Struct("!HH").unpack_from
_SERVER_NAME, _ALPN, _ECH = 0, 16, 0xFE0D
_HOST_NAME = 0
_LONGEST_NAME = 255
#: Behind the version and the random number.
_SESSION_ID = 34
_LONGEST_SESSION_ID = 32
_TOO_LONG = f"its hello is longer than {MOST} bytes"
_WRONG = "a length in its hello is wrong"


class BadHello(ValueError):
    """What came is no ClientHello, or a broken one. The text says which, for a log.

    :ivar is_tls: whether it is TLS, so that the other end understands an alert.
    """

    def __init__(self, text: str, *, is_tls: bool = True) -> None:
        super().__init__(text)
        self.is_tls = is_tls


class ClientHello(NamedTuple):
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
        self.raw: bytes | bytearray = b""
        # Where the next record begins, and what the ones before have brought.
        self._next = 0
        self._message: bytes | bytearray = b""

    def take(self, data: bytes) -> ClientHello | None:
        """Take the next bytes. Return the hello, or None if it is not complete.

        :raises BadHello: it is none.
        """
        if not self.raw:
            self.raw = data
            if (hello := whole_hello(data)) is not None:
                return hello
            self.raw, self._message = bytearray(), bytearray()
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


def whole_hello(data: bytes) -> ClientHello | None:
    """Return the hello with which *data* begins, if all of it is there, in one record, as mostly; else None.

    :raises BadHello: it is malformed.
    """
    if len(data) < _HEADERS.size:
        return None
    kind, version, length, message = _HEADERS.unpack_from(data)
    end = _RECORD.size + length
    is_whole = length <= _LONGEST_RECORD and message == _CLIENT_HELLO << 24 | length - 4 and end <= len(data)
    return read_hello(data[_HEADERS.size : end]) if is_whole and kind == _HANDSHAKE and version >> 8 == 3 else None


def read_hello(body: bytes | bytearray) -> ClientHello:
    """Read a ClientHello without the header of the message.

    :raises BadHello: it is malformed.
    """
    # Inline, because every visitor pays for it.
    try:
        at = _SESSION_ID + 1 + body[_SESSION_ID]
        suites = body[at] << 8 | body[at + 1]
        at += 2 + suites
        methods = body[at]
        at += 1 + methods
        if body[_SESSION_ID] > _LONGEST_SESSION_ID or not suites or suites % 2 or not methods or at > len(body):
            raise BadHello(_WRONG)
        if at == len(body):
            return ClientHello()
        if at + 2 + (body[at] << 8 | body[at + 1]) != len(body):
            raise BadHello(_WRONG)
        at += 2
        end, count = len(body), 0
        found: dict[int, int] = {}
        while at < end:
            kind, length = _EXTENSION(body, at)
            found[kind] = at + 2
            count += 1
            at += 4 + length
    except (IndexError, StructError):
        raise BadHello(_WRONG) from None
    if at != end:
        raise BadHello(_WRONG)
    if len(found) != count:
        raise BadHello("one of its extensions is there twice")
    return ClientHello(
        _server_name(body, found[_SERVER_NAME]) if _SERVER_NAME in found else None,
        _protocols(body, found[_ALPN]) if _ALPN in found else (),
        _ECH in found,
    )


def _vector(data: bytes | bytearray, at: int, width: int) -> tuple[int, int]:
    """Return where the content of a vector begins and ends, whose length of *width* bytes is at *at*."""
    start = at + width
    end = start + int.from_bytes(data[at:start])
    if max(start, end) > len(data):
        raise BadHello(_WRONG)
    return start, end


def _list(data: bytes | bytearray, at: int) -> bytes | bytearray:
    """Return what is in an extension that is a list. The length of the extension, which fits, is at *at*."""
    content, end = _vector(data, at, 2)
    start, list_end = _vector(data, content, 2)
    if start >= end or list_end != end:
        raise BadHello(_WRONG)
    return data[start:end]


def _server_name(body: bytes | bytearray, extension: int) -> str | None:
    names = _list(body, extension)
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


def _protocols(body: bytes | bytearray, extension: int) -> tuple[bytes, ...]:
    protocols = _list(body, extension)
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
    return bytes((ALERT, 3, 3, 0, 2, 2, description))
