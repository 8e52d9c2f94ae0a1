"""Key exchanges of other families beside X25519 and ML-KEM (docs/wire.rst, "Hedges").

A *hedge* is a KEM whose secret is mixed into the root of a link, so that a break of one kind of mathematics alone opens
nothing. What computes it is handed in (:class:`IHedge`); here is what both ends must agree on: names, order and sizes.

The public keys are long, so KEYS comes in pieces::

    one end    payload --> cut() --> KEYS, KEYS, ... --> KeyPieces --> payload    other end
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

#: How many bytes of KEYS one frame or message has, if there are hedges; the last one has what is left.
PIECE = 16384
#: How many pieces an end takes before it says that it is alive, as its peer hears nothing else meanwhile.
SIGN_EVERY = 8
#: The length of each hedge's secret, in bytes.
SECRET = 32


@dataclass(frozen=True, slots=True)
class Kem:
    """A KEM that may be a hedge. Sizes are in bytes.

    :ivar name: the name on the wire and in settings.
    :ivar public_key: the size of its public key.
    :ivar ciphertext: the size of its ciphertext.
    :ivar family: what it rests on, for people.
    """

    name: str
    public_key: int
    ciphertext: int
    family: str


#: All of them, in the order in which they are mixed. FrodoKEM is that of the third round of NIST's process: without a
#: salt, as its keys are used once; newer documents call it eFrodoKEM.
KEMS = {
    kem.name: kem
    for kem in (
        Kem("Classic-McEliece-6688128", 1044992, 208, "error-correcting codes"),
        Kem("FrodoKEM-1344-AES", 21520, 21632, "lattices without structure"),
    )
}


class IHedge(Protocol):
    """What computes one KEM."""

    @property
    def kem(self) -> Kem:
        """Which one it is."""

    def generate(self) -> tuple[bytes, bytes]:
        """Return a new public key, and its private key. This may take a tenth of a second."""

    def encapsulate(self, public_key: bytes) -> tuple[bytes, bytes]:
        """Return a ciphertext for the owner of *public_key*, and the secret, of :data:`SECRET` bytes.

        :raises ValueError: the key is bad.
        """

    def decapsulate(self, ciphertext: bytes, private_key: bytes) -> bytes:
        """Return the secret. A ciphertext that was made for another key gives another one, as FIPS 203 has it too.

        :raises ValueError: the ciphertext is bad.
        """


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return *names* in the order in which their secrets are mixed, each once.

    :raises ValueError: one of them is unknown.
    """
    wanted = set(names)
    unknown = sorted(wanted - KEMS.keys())
    if unknown:
        raise ValueError(f"'{unknown[0]}' is not one of {', '.join(KEMS)}")
    return tuple(name for name in KEMS if name in wanted)


def why_different(client: Sequence[str], server: Sequence[str], called: str = "server") -> str:
    """Return why nothing may be carried, as both ends must have the same hedges; empty: they have.

    :param client: the names that the client mixes in.
    :param server: the names that the server mixes in.
    :param called: what to call the server.
    """
    if tuple(client) == tuple(server):
        return ""
    one, other = (f"--hedge {','.join(names)}" if names else "no --hedge" for names in (client, server))
    return f"the client has {one}, the {called} {other}; nothing is carried before both have the same"


def cut(payload: bytes) -> list[bytes]:
    """Return the pieces in which KEYS with hedges is sent."""
    return [payload[start : start + PIECE] for start in range(0, len(payload), PIECE)]


class KeyPieces:
    """Puts KEYS together again.

    :param length: how many bytes it has.
    :ivar count: how many pieces have come.
    """

    __slots__ = ("_held", "_length", "count")

    def __init__(self, length: int) -> None:
        self._length = length
        self._held = bytearray()
        self.count = 0

    @property
    def held(self) -> int:
        """How many bytes are here."""
        return len(self._held)

    def take(self, piece: bytes) -> bytes | None:
        """Take the next piece. Return the whole, if that was the last one.

        :raises ValueError: it is longer or shorter than it must be, or behind the last one.
        """
        due = min(PIECE, self._length - len(self._held))
        if not due:
            raise ValueError("a second KEYS")
        if len(piece) != due:
            raise ValueError(f"a piece of KEYS of {len(piece)} bytes where {due} belong")
        self._held += piece
        self.count += 1
        if len(self._held) < self._length:
            return None
        whole, self._held = bytes(self._held), bytearray()
        self._length = 0
        return whole
