"""Sealed packets: one direction of a UDP path (docs/wire.rst, "Packets").

    packet = id number sealed
    id     = u32             ; big-endian, of the path; the server has chosen it
    number = u64             ; from 0, one more with each packet of this direction
    sealed = *OCTET          ; the message, encrypted, and a tag of 16 bytes

Unlike a record, a packet may be lost, overtaken or repeated by the network. So its number travels with it. A packet is
taken once, and only if it is not much older than the newest one. A forged packet changes nothing.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from rtunnel.wire.data.seal import TAG, Cipher, aead, expand, invalid_tag

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

HEADER = Struct("!IQ")
#: How many bytes longer a message gets in a packet.
OVERHEAD = HEADER.size + TAG
#: The number in a packet, in bits by which it is shifted to give the number of its key: a key seals 2**23 packets.
KEY_SHIFT = 23
#: A packet may be this many numbers older than the newest one.
WINDOW = 4096
#: Seconds for which packets under the key before are still taken.
KEY_OVERLAP = 10.0
#: After so many packets that were not authentic, an end takes none at all (compare RFC 9147, section 4.5.3).
MOST_FORGED = 2**34

_ID = Struct("!I")
_NONCE_START = bytes(4)


def packet_id(packet: bytes | memoryview) -> int | None:
    """Return the id of the path that bytes say they belong to; None if they are too short for a packet."""
    return _ID.unpack_from(packet)[0] if len(packet) > OVERHEAD else None


class Sealer:
    """Seal the packets of one direction.

    :param id: of the path.
    :param secret: the 32 bytes that :func:`rtunnel.wire.data.keys.path_secrets` derives for this direction.
    :param cipher: the cipher; not ``NONE``.
    """

    __slots__ = ("_aead", "_cipher", "_id", "_number", "_secret", "_until")

    def __init__(self, id: int, secret: bytes, cipher: Cipher) -> None:
        self._id = id
        self._secret = secret
        self._cipher = cipher
        self._number = 0
        self._until = 1 << KEY_SHIFT
        self._aead = aead(cipher, expand(secret, b"key"))

    def seal(self, message: bytes) -> bytes:
        """Return a packet with *message*, which has at least one byte."""
        number = self._number
        if number >= self._until:
            self._secret = expand(self._secret, b"next")
            self._aead = aead(self._cipher, expand(self._secret, b"key"))
            self._until += 1 << KEY_SHIFT
        # The number is used up even if the library raises.
        self._number = number + 1
        header = HEADER.pack(self._id, number)
        return header + self._aead.encrypt(_NONCE_START + header[4:], message, header)


class Opener:
    """Open the packets of one direction. Nothing that is not authentic changes the state.

    The parameters are those of :class:`Sealer`.

    :ivar is_newest: the packet opened last has the highest number so far.
    """

    __slots__ = (
        "_aeads",
        "_cipher",
        "_drop_old_at",
        "_forged",
        "_highest",
        "_id",
        "_next_secret",
        "_seen",
        "is_newest",
    )

    def __init__(self, id: int, secret: bytes, cipher: Cipher) -> None:
        self._id = id
        self._cipher = cipher
        self._aeads: dict[int, AESGCM | ChaCha20Poly1305] = {0: aead(cipher, expand(secret, b"key"))}
        self._next_secret = expand(secret, b"next")
        # Whether a number was seen, for the last WINDOW of them, at the number modulo WINDOW.
        self._seen = bytearray(WINDOW)
        self._highest = -1
        self._drop_old_at: float | None = None
        self._forged = 0
        self.is_newest = False

    def open(self, packet: bytes | memoryview, now: float) -> bytes:
        """Return the message in *packet*.

        :param packet: any bytes.
        :param now: the time, in seconds.
        :raises ValueError: the packet is not authentic, was opened before, or is too old.
        """
        if len(packet) <= OVERHEAD:
            raise ValueError("bytes that are too short for a packet")
        header = bytes(packet[: HEADER.size])
        id, number = HEADER.unpack(header)
        if id != self._id or self._forged >= MOST_FORGED:
            raise ValueError("a packet that is not for this path, or comes after too many forged ones")
        highest = self._highest
        if number <= highest and (number <= highest - WINDOW or self._seen[number % WINDOW]):
            raise ValueError("a packet that has come before, or is too old")
        key = number >> KEY_SHIFT
        cipher = self._aeads.get(key) or self._later_key(key)
        try:
            message = cipher.decrypt(_NONCE_START + header[4:], packet[HEADER.size :], header)
        except invalid_tag():
            self._forged += 1
            raise ValueError("a packet that is not authentic") from None
        self.is_newest = number > highest
        if self.is_newest:
            if number > highest + 1:
                self._skip(highest + 1, number)
            self._highest = number
            if key > max(0, highest) >> KEY_SHIFT:
                self._changed_key(key, now)
        self._seen[number % WINDOW] = 1
        return message

    def _skip(self, first: int, end: int) -> None:
        """Take note that the numbers from *first* to *end* - 1 have not come yet."""
        if end - first >= WINDOW:
            self._seen = bytearray(WINDOW)
            return
        start, stop = first % WINDOW, end % WINDOW
        if start <= stop:
            self._seen[start:stop] = bytes(stop - start)
        else:
            self._seen[start:] = bytes(WINDOW - start)
            self._seen[:stop] = bytes(stop)

    def _later_key(self, key: int) -> AESGCM | ChaCha20Poly1305:
        """Return the next key. It is made once, whoever made up the number in the packet.

        :raises ValueError: it is not the next one.
        """
        if key != (max(0, self._highest) >> KEY_SHIFT) + 1:
            raise ValueError("a packet under a key that is not in use")
        made = self._aeads[key] = aead(self._cipher, expand(self._next_secret, b"key"))
        return made

    def _changed_key(self, key: int, now: float) -> None:
        self._next_secret = expand(self._next_secret, b"next")
        self._aeads = {each: self._aeads[each] for each in (key - 1, key)}
        self._drop_old_at = now + KEY_OVERLAP

    def tick(self, now: float) -> None:
        """Forget the key before, when it has had its time."""
        if self._drop_old_at is not None and now >= self._drop_old_at:
            self._drop_old_at = None
            key = max(0, self._highest) >> KEY_SHIFT
            self._aeads = {each: cipher for each, cipher in self._aeads.items() if each >= key}
