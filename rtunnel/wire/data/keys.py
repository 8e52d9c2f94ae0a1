"""The keys of a link's record connections (docs/wire.rst, "Keys of a link" and "Tickets").

    ephemeral keys of both ends, and the link's exporter --> root --> ticket 0, ticket 1, ... --> two secrets each

The ephemeral keys are of X25519, of ML-KEM and of each hedge, if there are any (:mod:`rtunnel.wire.data.hedges`).

Without TLS on the link the root is a random number that the server sends, and no record is sealed.

A key that is done with is forgotten: the private keys with the root, and each ticket's chain with the next ticket.
Python cannot wipe memory; nothing here keeps a reference, and no representation shows a key.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from rtunnel.wire.data.hedges import KEMS, IHedge
from rtunnel.wire.data.seal import Cipher, Seal, expand

# See the module of seals.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

#: The label for the link's exporter (RFC 8446, section 7.5), and how many bytes are wanted of it.
EXPORTER_LABEL = b"EXPORTER-rtunnel-records"
EXPORTER_LENGTH = 32
#: The length of a ticket's id, in bytes.
TICKET_ID = 16
#: How many random bytes each end puts into the keys of a connection.
RANDOM = 32
#: What names the use of the root's derivation if there are no hedges.
PLAIN_INFO = b"rtunnel root"

_X25519 = 32
_ENCAPSULATION_KEY = 1184
_CIPHERTEXT = 1088


def exporter_context(server_der: bytes, client_der: bytes) -> bytes:
    """Return the context for the link's exporter. It names both ends, as TLS 1.3's exporter leaves out the client.

    :param server_der: the server's certificate, in DER.
    :param client_der: the client's.
    """
    return sha256(server_der).digest() + sha256(client_der).digest()


@dataclass(frozen=True, slots=True)
class Root:
    """What both ends of a link have agreed on.

    :ivar root: 32 secret bytes, where the chain of tickets begins.
    :ivar cipher: how records are sealed.
    """

    root: bytes = field(repr=False)
    cipher: Cipher


def _cut(payload: bytes, *lengths: int) -> tuple[Cipher, list[bytes]]:
    """Cut KEYS into the cipher and what follows it.

    :raises ValueError: the length is another, or the cipher is unknown.
    """
    if len(payload) != 1 + sum(lengths):
        raise ValueError(f"KEYS of {len(payload)} bytes where {1 + sum(lengths)} belong")
    parts, start = [], 1
    for length in lengths:
        parts.append(payload[start : start + length])
        start += length
    try:
        return Cipher(payload[0]), parts
    except ValueError:
        raise ValueError(f"KEYS with the unknown cipher {payload[0]}") from None


def client_length(names: Sequence[str] = ()) -> int:
    """Return how many bytes the client's KEYS has on a link with TLS.

    :param names: of the hedges.
    """
    return 1 + _X25519 + _ENCAPSULATION_KEY + sum(KEMS[name].public_key for name in names)


def server_length(names: Sequence[str] = ()) -> int:
    """Return how many bytes the server's KEYS has on a link with TLS.

    :param names: of the hedges.
    """
    return 1 + _X25519 + _CIPHERTEXT + sum(KEMS[name].ciphertext for name in names)


def _cut_sealed(payload: bytes, *lengths: int) -> tuple[Cipher, bytes, bytes, list[bytes]]:
    """Cut KEYS into cipher, X25519 key, what ML-KEM has, and what each hedge has.

    :param lengths: of ML-KEM's and of the hedges'.
    """
    cipher, (x25519, kem, *others) = _cut(payload, _X25519, *lengths)
    if cipher is Cipher.NONE:
        raise ValueError("KEYS without a cipher on a link with TLS")
    return cipher, x25519, kem, others


def _exchange(own: X25519PrivateKey, other: bytes) -> bytes:
    """Return the shared secret of X25519.

    :raises ValueError: it is all zero, which a contributory exchange never gives (RFC 7748, section 6.1).
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise ValueError("KEYS with a bad X25519 key") from None


def _root(exported: bytes, *shared: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, exported, info).derive(b"".join(shared))


def hedged_info(names: Sequence[str], client_keys: bytes, server_keys: bytes) -> bytes:
    """Return what names the use of the root's derivation if there are hedges: their names, and all that was sent.

    The secret of a KEM need not depend on its public key and ciphertext, so the derivation must. The names say where
    each of them is, as they tell its length.

    :param client_keys: the payload of the client's KEYS.
    :param server_keys: the payload of the server's.
    """
    said = "".join(f"{name}\n" for name in names).encode("ascii")
    digests = (sha256(part).digest() for part in (said, client_keys, server_keys))
    return b"rtunnel hedged root" + b"".join(digests)


class ClientAgreement:
    """The client's half of the agreement on a link with TLS.

    With hedges, make it in a thread: a key of Classic McEliece takes more than a tenth of a second.

    :param wished: the cipher that this machine prefers; see :func:`wish`.
    :param hedges: the KEMs whose secrets are mixed in, in the order of :func:`~rtunnel.wire.data.hedges.ordered`.
    :ivar message: the payload of the client's KEYS.
    """

    __slots__ = ("_hedges", "_kem", "_private", "_wished", "_x25519", "message")

    def __init__(self, wished: Cipher, hedges: Sequence[IHedge] = ()) -> None:
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        self._wished = wished
        self._hedges = tuple(hedges)
        self._x25519: X25519PrivateKey | None = X25519PrivateKey.generate()
        self._kem: MLKEM768PrivateKey | None = MLKEM768PrivateKey.generate()
        pairs = [hedge.generate() for hedge in hedges]
        self._private = [private for _, private in pairs]
        self.message = b"%c%b%b%b" % (
            wished,
            self._x25519.public_key().public_bytes_raw(),
            self._kem.public_key().public_bytes_raw(),
            b"".join(public for public, _ in pairs),
        )

    def finish(self, payload: bytes, exported: bytes) -> Root:
        """Take the server's KEYS, and forget the private keys.

        :param payload: the payload of the server's KEYS.
        :param exported: the 32 bytes of the link's exporter.
        :raises ValueError: the payload is malformed, or not the first.
        """
        x25519, kem, private = self._x25519, self._kem, self._private
        self._x25519 = self._kem = None
        self._private = []
        if x25519 is None or kem is None:
            raise ValueError("a second KEYS")
        lengths = [hedge.kem.ciphertext for hedge in self._hedges]
        cipher, other, ciphertext, others = _cut_sealed(payload, _CIPHERTEXT, *lengths)
        if cipher < self._wished:
            raise ValueError("KEYS with a cipher that this end did not wish for")
        shared = [_exchange(x25519, other), kem.decapsulate(ciphertext)]
        if not self._hedges:
            return Root(_root(exported, *shared, info=PLAIN_INFO), cipher)
        for hedge, key, text in zip(self._hedges, private, others, strict=True):
            shared.append(hedge.decapsulate(text, key))
        info = hedged_info([hedge.kem.name for hedge in self._hedges], self.message, payload)
        return Root(_root(exported, *shared, info=info), cipher)


class ServerAgreement:
    """The server's half of the agreement on a link with TLS.

    :param payload: the payload of the client's KEYS.
    :param wished: the cipher that this machine prefers; see :func:`wish`.
    :param hedges: those of :class:`ClientAgreement`.
    :raises ValueError: the payload is malformed.
    :ivar message: the payload of the server's KEYS.
    """

    __slots__ = ("_cipher", "_info", "_secrets", "message")

    def __init__(self, payload: bytes, wished: Cipher, hedges: Sequence[IHedge] = ()) -> None:
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        lengths = [hedge.kem.public_key for hedge in hedges]
        cipher, other, encapsulation_key, others = _cut_sealed(payload, _ENCAPSULATION_KEY, *lengths)
        self._cipher = max(cipher, wished)
        own = X25519PrivateKey.generate()
        shared = _exchange(own, other)
        try:
            kem, ciphertext = MLKEM768PublicKey.from_public_bytes(encapsulation_key).encapsulate()
        except ValueError:
            raise ValueError("KEYS with a bad ML-KEM key") from None
        pairs = [hedge.encapsulate(public) for hedge, public in zip(hedges, others, strict=True)]
        self._secrets: tuple[bytes, ...] = (shared, kem, *(secret for _, secret in pairs))
        texts = b"".join(text for text, _ in pairs)
        self.message = b"%c%b%b%b" % (self._cipher, own.public_key().public_bytes_raw(), ciphertext, texts)
        self._info = hedged_info([each.kem.name for each in hedges], payload, self.message) if hedges else PLAIN_INFO

    def finish(self, exported: bytes) -> Root:
        """Return the root, and forget the secrets.

        :param exported: the 32 bytes of the exporter.
        :raises ValueError: it is not the first time.
        """
        secrets, self._secrets = self._secrets, ()
        if not secrets:
            raise ValueError("a second KEYS")
        return Root(_root(exported, *secrets, info=self._info), self._cipher)


def answer(payload: bytes, exported: bytes, wished: Cipher, hedges: Sequence[IHedge] = ()) -> tuple[bytes, Root]:
    """Do the server's half of the agreement at once. Return the payload of its KEYS, and the root.

    :param exported: the 32 bytes of the link's exporter. The other parameters are those of :class:`ServerAgreement`.
    :raises ValueError: the payload is malformed.
    """
    agreement = ServerAgreement(payload, wished, hedges)
    return agreement.message, agreement.finish(exported)


def plain_keys() -> tuple[bytes, Root]:
    """Return the payload of the server's KEYS on a link without TLS, and the root."""
    root = secrets.token_bytes(32)
    return b"%c%b" % (Cipher.NONE, root), Root(root, Cipher.NONE)


def read_plain_keys(payload: bytes) -> Root:
    """Read the server's KEYS on a link without TLS.

    :raises ValueError: it is malformed, or names a cipher.
    """
    cipher, (root,) = _cut(payload, 32)
    if cipher is not Cipher.NONE:
        raise ValueError("KEYS with a cipher on a link without TLS")
    return Root(root, cipher)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What lets a client make one data connection.

    :ivar index: its number on its link, from 0.
    :ivar id: 16 bytes that name it in ATTACH.
    :ivar key: 32 secret bytes, from which the keys of the connection come.
    """

    index: int
    id: bytes
    key: bytes = field(repr=False)


class Ratchet:
    """The chain of a link's tickets. What it has given can't be computed from what it holds.

    :param root: the 32 bytes of :class:`Root`.
    :ivar index: the number of the next ticket.
    """

    __slots__ = ("_chain", "index")

    def __init__(self, root: bytes) -> None:
        self._chain = root
        self.index = 0

    def next(self) -> Ticket:
        """Return the next ticket."""
        chain = self._chain
        ticket = Ticket(self.index, expand(chain, b"rtunnel ticket", TICKET_ID), expand(chain, b"rtunnel key"))
        self._chain = expand(chain, b"rtunnel chain")
        self.index += 1
        return ticket


def connection_seals(
    ticket_key: bytes, client_random: bytes, server_random: bytes, cipher: Cipher, *, is_client: bool
) -> tuple[Seal, Seal]:
    """Return the seals of one connection: for what this end sends, and for what it receives.

    :param ticket_key: the key of the ticket in ATTACH.
    :param client_random: the 32 random bytes of ATTACH.
    :param server_random: the 32 random bytes of the server's answer.
    :param cipher: the link's cipher, which is not ``NONE``.
    :param is_client: whether this end is the client.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    secret = HKDF.extract(SHA256(), client_random + server_random, ticket_key)
    client = Seal(expand(secret, b"rtunnel client"), cipher)
    server = Seal(expand(secret, b"rtunnel server"), cipher)
    return (client, server) if is_client else (server, client)


def path_secrets(root: Root) -> tuple[bytes, bytes, Cipher]:
    """Return the secrets of a link's UDP path, of what the client sends and of what the server sends, and its cipher.

    Datagrams are always sealed. On a link without TLS that keeps out strangers who cannot read the link, no others.
    """
    secret = expand(root.root, b"rtunnel udp")
    cipher = root.cipher if root.cipher is not Cipher.NONE else Cipher.AES_256_GCM
    return expand(secret, b"rtunnel client"), expand(secret, b"rtunnel server"), cipher


@cache
def wish() -> Cipher:
    """Return the cipher that is faster on this machine: ChaCha20 if its processor has no instructions for AES."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return Cipher.AES_256_GCM
    return _wish_of(cpuinfo)


def _wish_of(cpuinfo: str) -> Cipher:
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    # The first is x86's, the second is ARM's. Other processors say it elsewhere.
    features = [words.split() for name, _, words in lines if name.strip() in ("flags", "Features")]
    return Cipher.AES_256_GCM if all("aes" in words for words in features) else Cipher.CHACHA20_POLY1305
