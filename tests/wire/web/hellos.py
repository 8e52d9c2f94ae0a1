"""ClientHellos: those of real programs, and odd ones that are made by hand."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Sequence

from OpenSSL import SSL

from rtunnel.tls.openssl import set_groups


def by_python(name: str | None, alpn: Sequence[str] = ()) -> bytes:
    """What Python's ``ssl`` sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def by_openssl(name: str, groups: Sequence[str], *alpn: bytes) -> bytes:
    """What the OpenSSL of ``cryptography`` sends first, which knows post-quantum groups."""
    context = SSL.Context(SSL.TLS_METHOD)
    if alpn:
        context.set_alpn_protos(list(alpn))
    set_groups(context, groups)
    client = SSL.Connection(context, None)
    client.set_tlsext_host_name(name.encode())
    client.set_connect_state()
    try:
        client.do_handshake()
    except SSL.WantReadError:
        pass
    return client.bio_read(1 << 16)


def vector(width: int, content: bytes) -> bytes:
    """Content behind its length."""
    return len(content).to_bytes(width, "big") + content


def server_name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    """The extension of this name."""
    return 0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names))


def alpn(*protocols: bytes) -> tuple[int, bytes]:
    """The extension of this name."""
    return 16, vector(2, b"".join(vector(1, each) for each in protocols))


ECH = 0xFE0D, b"\0\0\1\0\1\0\0\4abcd\0\4efgh"


def body(
    *extensions: tuple[int, bytes], session: bytes = b"", suites: bytes = b"\x13\x01", methods: bytes = b"\0"
) -> bytes:
    """A hello without the header of the message."""
    listed = b"".join(struct.pack("!H", kind) + vector(2, content) for kind, content in extensions)
    start = b"\3\3" + bytes(32) + vector(1, session) + vector(2, suites) + vector(1, methods)
    return start + vector(2, listed)


def message(content: bytes, kind: int = 1) -> bytes:
    """A handshake message."""
    return bytes([kind]) + vector(3, content)


def records(content: bytes, size: int = 1 << 14, kind: int = 22, version: int = 0x0301) -> bytes:
    """Records with at most so many bytes each."""
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(struct.pack("!BH", kind, version) + vector(2, piece) for piece in pieces)


def hello(name: str, *extensions: tuple[int, bytes], size: int = 1 << 14) -> bytes:
    """A hello for this name, in records of at most so many bytes."""
    return records(message(body(server_name(name.encode()), *extensions)), size)
