"""What opens a sealed channel: an ordinal, and sealed under it what the channel is for (docs/wire.rst).

    label    = "sealed"
    protocol = base64url(ordinal sealed)            ; without padding
    ordinal  = u64                                  ; big-endian; counts the channels that this end has opened
    sealed   = *OCTET                               ; purpose, encrypted, and a tag of 16 bytes
    purpose  = length label length service *%x00    ; up to a multiple of 32 bytes; a length is a u16

An ordinal is used once in the life of a connection, and names the keys of the channel. The numbers of SCTP's streams
are used again, so they name none.
"""

from __future__ import annotations

import base64
import re
from struct import Struct

from cryptography.exceptions import InvalidTag

from rtunnel.wire.data.keys import Root
from rtunnel.wire.data.seal import TAG, aead
from rtunnel.wire.webrtc.channel_open import MAX_NAME
from rtunnel.wire.webrtc.sealed_keys import MAX_ORDINAL, Side, channel_keys
from rtunnel.wire.webrtc.sealed_messages import Seals, channel_seals

#: The label of every sealed channel.
LABEL = "sealed"
#: A channel may have an ordinal that is so much lower than the highest one that has come.
WINDOW = 4096
#: What is sealed is as long as a multiple of this, so that its length tells little.
PADDED_TO = 32
#: The longest label that is sent, in bytes; longer ones, which are for logs, are cut.
MAX_LABEL = 128
#: The longest name of a service, in bytes: what is left of the longest protocol that a channel may have.
MAX_SERVICE = MAX_NAME * 3 // 4 // PADDED_TO * PADDED_TO - PADDED_TO - MAX_LABEL - 4

_ORDINAL = Struct("!Q")
_LENGTH = Struct("!H")
_NONCE = bytes(12)
#: What is authenticated beside the purpose: whether the channel is reliable.
_UNRELIABLE_RELIABLE = (b"\0", b"\1")
_ALPHABET = re.compile("[A-Za-z0-9_-]*")


def _purpose(label: str, service: str) -> bytes:
    parts = label.encode()[:MAX_LABEL].decode("utf-8", "ignore").encode(), service.encode()
    if len(parts[1]) > MAX_SERVICE:
        raise ValueError(f"the name of a service has more than {MAX_SERVICE} bytes")
    text = b"".join(_LENGTH.pack(len(part)) + part for part in parts)
    return text + bytes(-len(text) % PADDED_TO)


def _read_purpose(purpose: bytes) -> tuple[str, str]:
    names, at = [], 0
    for _ in range(2):
        if at + _LENGTH.size > len(purpose):
            raise ValueError("a sealed channel whose purpose is cut off")
        (length,) = _LENGTH.unpack_from(purpose, at)
        at += _LENGTH.size
        name = purpose[at : at + length]
        at += length
        if len(name) < length:
            raise ValueError("a sealed channel whose purpose is cut off")
        try:
            names.append(name.decode())
        except UnicodeDecodeError:
            raise ValueError("a sealed channel whose purpose is not UTF-8") from None
    if any(purpose[at:]):
        raise ValueError("a sealed channel whose purpose has something behind it")
    return names[0], names[1]


def _cut(protocol: str) -> tuple[int, bytes]:
    """Return the ordinal in a protocol, and what is sealed under it.

    :raises ValueError: it is not base64url, or too short.
    """
    if not _ALPHABET.fullmatch(protocol):
        raise ValueError("a sealed channel whose protocol is not base64url")
    try:
        data = base64.urlsafe_b64decode(protocol + "=" * (-len(protocol) % 4))
    except ValueError:
        raise ValueError("a sealed channel whose protocol is not base64url") from None
    # The last digit may have bits that mean nothing: one channel has one protocol.
    if _text(data) != protocol:
        raise ValueError("a sealed channel whose protocol is not base64url")
    if len(data) < _ORDINAL.size + TAG:
        raise ValueError("a sealed channel whose protocol is cut off")
    (ordinal,) = _ORDINAL.unpack_from(data)
    return ordinal, data[_ORDINAL.size :]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


class Opening:
    """The channels that this end opens.

    :param root: of the connection.
    :param side: which end this is.
    :ivar ordinal: of the next channel.
    """

    __slots__ = ("_root", "_side", "ordinal")

    def __init__(self, root: Root, side: Side) -> None:
        self._root = root
        self._side = side
        self.ordinal = 0

    def open(self, label: str, service: str, *, reliable: bool) -> tuple[str, Seals]:
        """Return the protocol for another channel, and what seals its messages.

        :raises ValueError: the name of the service is too long, or there are no ordinals left.
        """
        ordinal, cipher = self.ordinal, self._root.cipher
        if ordinal > MAX_ORDINAL:
            raise ValueError("no more channels can be opened on this connection")
        purpose = _purpose(label, service)
        self.ordinal += 1
        keys = channel_keys(self._root.root, self._side, ordinal)
        sealed = aead(cipher, keys.open).encrypt(_NONCE, purpose, _UNRELIABLE_RELIABLE[reliable])
        seals = channel_seals(keys, cipher, self._side, ordinal, reliable=reliable)
        return _text(_ORDINAL.pack(ordinal) + sealed), seals


class Arriving:
    """The channels that the other end opens. Each ordinal is taken once.

    :param root: of the connection.
    :param side: which end this is.
    """

    __slots__ = ("_highest", "_root", "_seen", "_side")

    def __init__(self, root: Root, side: Side) -> None:
        self._root = root
        self._side = side
        self._highest = -1
        #: Which of the last WINDOW ordinals have come, a bit for each, the highest one first.
        self._seen = 0

    def take(self, protocol: str, *, reliable: bool) -> tuple[str, str, Seals]:
        """Return label and service of a channel, and what seals its messages.

        :param protocol: as it came.
        :param reliable: as it came.
        :raises ValueError: the other end has not opened this channel, it has come before, or it is too old. It changes
            nothing.
        """
        ordinal, sealed = _cut(protocol)
        behind = self._highest - ordinal
        if behind >= WINDOW or (behind >= 0 and self._seen >> behind & 1):
            raise ValueError("a sealed channel that has come before, or is too old")
        cipher = self._root.cipher
        keys = channel_keys(self._root.root, self._side.other, ordinal)
        try:
            purpose = aead(cipher, keys.open).decrypt(_NONCE, sealed, _UNRELIABLE_RELIABLE[reliable])
        except InvalidTag:
            raise ValueError("a sealed channel that is not authentic") from None
        label, service = _read_purpose(purpose)
        self._mark(ordinal)
        return label, service, channel_seals(keys, cipher, self._side, ordinal, reliable=reliable)

    def _mark(self, ordinal: int) -> None:
        ahead = ordinal - self._highest
        if ahead > 0:
            self._seen = (self._seen << ahead) & ((1 << WINDOW) - 1) if ahead < WINDOW else 0
            self._highest = ordinal
        self._seen |= 1 << (self._highest - ordinal)
