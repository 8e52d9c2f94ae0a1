"""Records of a peer that asks for new keys again and again (RFC 8446, section 4.6.3), which no library would make."""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

_KEY_UPDATE, _NOT_REQUESTED, _REQUESTED = 24, 0, 1
_HANDSHAKE, _DATA = 22, 23


class Hand:
    """Writes a client's records by hand, once its handshake is over, in place of its library.

    :param context: of the client, before its handshake. The cipher is AES-256-GCM with SHA-384, OpenSSL's first.
    """

    def __init__(self, context: SSL.Context) -> None:
        self._secret = b""
        self._number = 0
        self._derive()
        context.set_keylog_callback(self._take)

    def _take(self, _connection: SSL.Connection, line: bytes) -> None:
        kind, _, secret = line.split()
        if kind == b"CLIENT_TRAFFIC_SECRET_0":
            self._secret = bytes.fromhex(secret.decode())
            self._derive()

    def _expand(self, label: bytes, size: int) -> bytes:
        info = struct.pack("!HB", size, 6 + len(label)) + b"tls13 " + label + b"\0\1"
        return hmac.digest(self._secret or bytes(48), info, hashlib.sha384)[:size]

    def _derive(self) -> None:
        self._aead = AESGCM(self._expand(b"key", 32))
        self._iv = int.from_bytes(self._expand(b"iv", 12))
        self._number = 0

    def _record(self, content: bytes, kind: int) -> bytes:
        head = struct.pack("!BHH", _DATA, 0x0303, len(content) + 17)
        nonce = (self._iv ^ self._number).to_bytes(12)
        self._number += 1
        return head + self._aead.encrypt(nonce, content + bytes([kind]), head)

    def data(self, content: bytes) -> bytes:
        """A record of the application."""
        return self._record(content, _DATA)

    def update(self, *, request: bool = True) -> bytes:
        """New keys of ours; with *request*, the other end is to take new ones too."""
        message = struct.pack("!B3sB", _KEY_UPDATE, b"\0\0\1", _REQUESTED if request else _NOT_REQUESTED)
        record = self._record(message, _HANDSHAKE)
        self._secret = self._expand(b"traffic upd", 48)
        self._derive()
        return record
