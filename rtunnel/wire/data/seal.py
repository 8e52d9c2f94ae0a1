"""Sealed records: one direction of one record connection (docs/wire.rst, "Sealed records").

Each direction has a secret. The key in use comes from it, and so does the next secret, when that key has done its
share. The nonce is the number of the record under its key. It is never sent, so a record that was changed, repeated,
left out or moved is not authentic. Both ends count the same records and bytes, so both take the next key at the same
record.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING
from weakref import ref

from rtunnel.wire.data.frozen import Fields, State, text_of

# The library is imported when the first key is used: a process whose links are plain has none, and saves 8 MiB.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

#: How many bytes longer a payload gets when it is sealed.
TAG = 16
#: The length of a secret, in bytes.
SECRET = 32
#: A key seals no more records than this ...
RECORDS_PER_KEY = 2**20
#: ... and none after it has sealed this many bytes of payload, tags not counted.
BYTES_PER_KEY = 2**36
#: When the ciphers of more seals than this have state, those that were not used since they were looked at last lose it.
MOST_AWAKE = 128
#: So many are looked at whenever another one gets it.
LOOK_AT = 4

# The seals that have it, those that were looked at longest ago first, and the nonce that each had then. A seal may be
# there twice, or at rest.
_awake: deque[tuple[ref[Seal], int]] = deque()


class Cipher(IntEnum):
    """How the record connections of a link are sealed, as KEYS says it."""

    NONE = 0
    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


@cache
def _aead_of(cipher: Cipher) -> type[AESGCM | ChaCha20Poly1305]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

    aeads: dict[Cipher, type[AESGCM | ChaCha20Poly1305]] = {
        Cipher.AES_256_GCM: AESGCM,
        Cipher.CHACHA20_POLY1305: ChaCha20Poly1305,
    }
    return aeads[cipher]


def invalid_tag() -> type[Exception]:
    """Return the library's error for bytes that are not authentic. It is asked for only once there is an error."""
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def expand(secret: bytes, label: bytes, length: int = 32) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869, section 2.3).

    :param secret: at least 32 bytes that nobody can predict.
    :param label: what the result is for (``info``).
    :param length: how many bytes to return.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    return HKDFExpand(SHA256(), length, label).derive(secret)


def aead(cipher: Cipher, key: bytes) -> AESGCM | ChaCha20Poly1305:
    """Return the AEAD of *cipher* under *key*, 32 bytes.

    :raises KeyError: the cipher is ``NONE``.
    """
    return _aead_of(cipher)(key)


def _look_at_oldest() -> None:
    """Put the seal that was looked at longest ago to rest, unless it has been used since."""
    reference, nonce = _awake.popleft()
    seal = reference()
    if seal is None or not seal._records:
        return
    if seal._nonce == nonce:
        seal.rest()
    else:
        _awake.append((reference, seal._nonce))


class Seal:
    """Seal the records of one direction, or unseal them. An object does one of the two.

    :param secret: the 32 bytes that :func:`rtunnel.wire.data.keys.connection_seals` derives for this direction.
    :param cipher: the cipher, which is not ``NONE``.
    :raises KeyError: the cipher is ``NONE``.
    """

    # Each record of a data connection under TLS comes through here: few operations, and no copies.
    __slots__ = ("__weakref__", "_aead", "_bytes", "_make", "_nonce", "_records", "_secret")
    _aead: AESGCM | ChaCha20Poly1305
    #: How many records the key may seal; 0 while the cipher's state is not there.
    _records: int

    def __init__(self, secret: bytes, cipher: Cipher) -> None:
        self._make = _aead_of(cipher)
        self._secret = secret
        self._nonce = self._bytes = 0
        self._records = RECORDS_PER_KEY
        self._aead: AESGCM | ChaCha20Poly1305
        self._wake()

    def seal(self, header: bytes | memoryview, payload: bytes | memoryview, out: memoryview) -> None:
        """Seal one record.

        :param header: the record's header. It is authenticated, and not encrypted.
        :param payload: what to encrypt, 0 bytes or more.
        :param out: where the result goes, ``len(payload) + TAG`` bytes. It must not overlap *payload*.
        """
        if (nonce := self._nonce) >= self._records or self._bytes >= BYTES_PER_KEY:
            nonce = self._take_next()
        # The nonce is used up even if the library raises.
        self._nonce = nonce + 1
        self._bytes += len(payload)
        self._aead.encrypt_into(nonce.to_bytes(12, "big"), payload, header, out)

    def unseal(self, header: bytes | memoryview, sealed: bytes | memoryview, out: memoryview) -> None:
        """Unseal one record. After an error the connection is over: the caller must not use *out* or go on.

        :param header: the record's header.
        :param sealed: what :meth:`seal` has made.
        :param out: where the payload goes, ``len(sealed) - TAG`` bytes. It must not overlap *sealed*.
        :raises ValueError: this is not the next record that the other end has sealed.
        """
        if (nonce := self._nonce) >= self._records or self._bytes >= BYTES_PER_KEY:
            nonce = self._take_next()
        self._nonce = nonce + 1
        self._bytes += len(out)
        try:
            self._aead.decrypt_into(nonce.to_bytes(12, "big"), sealed, header, out)
        except invalid_tag():
            raise ValueError("a record that is not authentic") from None

    def sealed(self, header: bytes, payload: bytes) -> bytes:
        """Seal one record, and return the result; see :meth:`seal`."""
        if (nonce := self._nonce) >= self._records or self._bytes >= BYTES_PER_KEY:
            nonce = self._take_next()
        self._nonce = nonce + 1
        self._bytes += len(payload)
        return self._aead.encrypt(nonce.to_bytes(12, "big"), payload, header)

    def unsealed(self, header: bytes, sealed: bytes | memoryview) -> bytes:
        """Unseal one record, and return the payload; see :meth:`unseal`.

        :raises ValueError: this is not the next record that the other end has sealed.
        """
        if (nonce := self._nonce) >= self._records or self._bytes >= BYTES_PER_KEY:
            nonce = self._take_next()
        self._nonce = nonce + 1
        try:
            payload = self._aead.decrypt(nonce.to_bytes(12, "big"), sealed, header)
        except invalid_tag():
            raise ValueError("a record that is not authentic") from None
        self._bytes += len(payload)
        return payload

    def freeze(self) -> State:
        """Return what another process needs to go on with this seal. It has the secret; this one must not go on."""
        return {"secret": text_of(self._secret), "nonce": self._nonce, "bytes": self._bytes}

    @classmethod
    def thaw(cls, frozen: Fields, cipher: Cipher) -> Seal:
        """Return a seal that goes on where :meth:`freeze` was called.

        :raises ValueError: it was not called for this.
        """
        secret = frozen.data("secret", SECRET)
        if len(secret) != SECRET or cipher is Cipher.NONE:
            raise ValueError("a secret is missing")
        seal = cls(secret, cipher)
        seal._nonce = frozen.number("nonce", RECORDS_PER_KEY)
        seal._bytes = frozen.number("bytes", 2 * BYTES_PER_KEY)
        return seal

    def rest(self) -> None:
        """Free the state of the cipher, 2.5 KiB, until the next record, which then takes 7 us longer."""
        if self._records:
            self._records = 0
            del self._aead

    def _wake(self) -> None:
        # First, because this one may be among them.
        for _ in range(min(len(_awake) - MOST_AWAKE, LOOK_AT)):
            _look_at_oldest()
        _awake.append((ref(self), self._nonce))
        self._records = RECORDS_PER_KEY
        self._aead = self._make(expand(self._secret, b"key"))

    def _take_next(self) -> int:
        """Take the next key if this one has done its share, and wake up. Return the next nonce."""
        if self._nonce >= RECORDS_PER_KEY or self._bytes >= BYTES_PER_KEY:
            self._secret = expand(self._secret, b"next")
            self._nonce = self._bytes = 0
        self._wake()
        return self._nonce
