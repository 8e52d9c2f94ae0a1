"""Tell what a connection is from its first bytes (docs/wire.rst, "The wrong port" and "Data connections").

    link            a frame whose length is within bounds
    data connection a whole ATTACH with nothing after it
    TLS, HTTP, SSH, a PROXY header
    unknown         anything else: as a frame it would be longer than any that is accepted

Every frame begins with nine bytes (type, conn_id, length), so nine bytes tell all of these apart: in text, the length
field is letters, which mean half a gigabyte or more. Two bytes identify a TLS record; read as a frame, they would be
ERROR or READY with a conn_id that no peer starts with.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rtunnel.wire.frames import ATTACH, HEADER, HEADER_SIZE, NAMES, frame_name
from rtunnel.wire.messages import decode_attach

#: No ATTACH has a longer payload, in bytes: the id of a ticket, and a random number.
MAX_ATTACH = 48
#: How ATTACH begins. A connection with TLS does not begin so.
ATTACH_START = bytes([ATTACH])


class Kind(Enum):
    """What a connection is. The value for a foreign protocol is the text for the operator."""

    LINK = "a link"
    DATA_CONNECTION = "a data connection"
    TLS = "the other end speaks TLS; add --tls here, or remove it there"
    TLS_ALERT = "the server speaks TLS; add --tls here, or remove it there"
    HTTP = "that is HTTP: visitors use the public port"
    HTTP_ANSWER = "that is a web server: give the address of the control port of an rtunnel-server"
    SSH = "that is SSH: visitors use the public port, and --server names the control port"
    PROXY = "that is a PROXY header: put haproxy: in front of the address to listen on, or send none"
    UNKNOWN = "that is an unknown protocol"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a connection is.

    :ivar problem: why it cannot be served, for the operator; empty if it can.
    :ivar ticket: of a data connection: the id of its ticket; see :class:`rtunnel.wire.data.tickets.Tickets`.
    :ivar client_random: of a data connection whose records will be sealed: its client's random number.
    """

    kind: Kind
    problem: str = ""
    ticket: bytes = b""
    client_random: bytes = b""


_LINK = Opening(Kind.LINK)
_TLS = {b"\x16\x03": Kind.TLS, b"\x15\x03": Kind.TLS_ALERT}
_SIGNATURES = [
    (b"SSH-", Kind.SSH),
    (b"HTTP/", Kind.HTTP_ANSWER),
    (b"PROXY ", Kind.PROXY),
    (b"\r\n\r\n\x00\r\nQU", Kind.PROXY),
    *((method, Kind.HTTP) for method in (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"PRI ")),
    *((method, Kind.HTTP) for method in (b"OPTIONS ", b"CONNECT ", b"TRACE ")),
]


def foreign_protocol(data: bytes) -> Kind | None:
    """Return the foreign protocol that begins with *data*, or None if it is not a known one."""
    if data[:2] in _TLS:
        return _TLS[data[:2]]
    return next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), None)


def read_opening(data: bytes, max_frame: int, *, data_connections: bool) -> Opening | None:
    """Return what a connection that begins with *data* is, or None if more bytes are needed.

    :param max_frame: the longest payload of a frame that is accepted, in bytes.
    :param data_connections: whether ATTACH is accepted here; otherwise it is a frame that a link ignores.
    """
    if len(data) < HEADER_SIZE:
        kind = _TLS.get(data[:2])
        return Opening(kind, kind.value) if kind is not None else None
    frame_type, _, length = HEADER.unpack_from(data)
    if frame_type == ATTACH and data_connections:
        if length > MAX_ATTACH:
            return Opening(Kind.DATA_CONNECTION, f"malformed ATTACH (no ticket is {length} bytes long)")
        if len(data) > HEADER_SIZE + length:
            # An honest client waits for the answer.
            return Opening(Kind.DATA_CONNECTION, "bytes after ATTACH")
        if len(data) < HEADER_SIZE + length:
            return None
        try:
            return Opening(Kind.DATA_CONNECTION, "", *decode_attach(data[HEADER_SIZE:]))
        except ValueError as error:
            return Opening(Kind.DATA_CONNECTION, f"malformed ATTACH ({error})")
    if length <= max_frame and data[:2] not in _TLS:
        return _LINK
    kind = foreign_protocol(data)
    if kind is not None:
        return Opening(kind, kind.value)
    if frame_type in NAMES:
        return _LINK  # the link reports by how much the frame is too long
    what = f"{frame_name(frame_type)} of {length} bytes; the limit is {max_frame}"
    return Opening(Kind.UNKNOWN, f"{Kind.UNKNOWN.value}: read as a frame it would be {what}")
