"""TLS where frames are expected: who speaks it is told so, in what it understands."""

from __future__ import annotations

from rtunnel.wire.frames import CLOSE_CONN, encode_frame

#: The answer to a TLS client: its first byte is none of TLS, and it means nothing to anybody else.
NO_TLS_HERE = encode_frame(CLOSE_CONN, 0)

_TLS = {
    b"\x16\x03": "the other end speaks TLS; add --tls here, or remove it there",
    b"\x15\x03": "the server speaks TLS; add --tls here, or remove it there",
}


def tls_instead(first_bytes: bytes) -> str | None:
    """What to say of a connection that begins with these bytes, if they are a TLS hello or a TLS alert.

    As frames they would be ERROR or READY, with a conn_id that no link begins with.
    """
    return _TLS.get(first_bytes[:2])
