"""Hedges: what both ends must agree on, and how their secrets get into the root."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from rtunnel.wire.data.hedges import KEMS, PIECE, SECRET, Kem, KeyPieces, cut, ordered, why_different
from rtunnel.wire.data.keys import ClientAgreement, answer, client_length, server_length
from rtunnel.wire.data.seal import Cipher

MCELIECE, FRODO = KEMS
EXPORTED = bytes(range(32))
AES = Cipher.AES_256_GCM


@dataclass
class Toy:
    """A KEM of the right sizes that hides nothing, and gives what the test wants.

    :ivar secret: what both ends get.
    :ivar filler: what the public key and the ciphertext consist of.
    """

    kem: Kem
    secret: bytes = b"s" * SECRET
    filler: bytes = b"f"

    def generate(self) -> tuple[bytes, bytes]:
        return self.filler * self.kem.public_key, b"private"

    def encapsulate(self, public_key: bytes) -> tuple[bytes, bytes]:
        assert len(public_key) == self.kem.public_key
        return self.filler * self.kem.ciphertext, self.secret

    def decapsulate(self, ciphertext: bytes, private_key: bytes) -> bytes:
        assert (len(ciphertext), private_key) == (self.kem.ciphertext, b"private")
        return self.secret


@pytest.fixture
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of X25519 and ML-KEM are the same each time."""

    class Fixed:
        def __init__(self, length: int) -> None:
            self._length = length

        def generate(self) -> Fixed:
            return self

        def public_key(self) -> Fixed:
            return self

        def public_bytes_raw(self) -> bytes:
            return b"p" * self._length

        def from_public_bytes(self, _data: bytes) -> Fixed:
            return self

        def exchange(self, _other: Fixed) -> bytes:
            return b"x" * 32

        def encapsulate(self) -> tuple[bytes, bytes]:
            return b"k" * 32, b"c" * 1088

        def decapsulate(self, _ciphertext: bytes) -> bytes:
            return b"k" * 32

    for name in ("X25519PrivateKey", "X25519PublicKey"):
        monkeypatch.setattr(x25519, name, Fixed(32))
    for name in ("MLKEM768PrivateKey", "MLKEM768PublicKey"):
        monkeypatch.setattr(mlkem, name, Fixed(1184))


def _root(*hedges: Toy, server: Sequence[Toy] | None = None) -> tuple[bytes, bytes]:
    """The root at each end."""
    client = ClientAgreement(AES, hedges)
    payload, root = answer(client.message, EXPORTED, AES, hedges if server is None else server)
    return client.finish(payload, EXPORTED).root, root.root


def _hkdf(salt: bytes, ikm: bytes, info: bytes) -> bytes:
    """RFC 5869, for one block."""
    return hmac.digest(hmac.digest(salt, ikm, "sha256"), info + b"\1", "sha256")


@pytest.mark.usefixtures("no_chance")
def test_the_root_by_the_document() -> None:
    one, other = Toy(KEMS[MCELIECE], b"1" * 32, b"m"), Toy(KEMS[FRODO], b"2" * 32, b"f")
    client = b"\1" + b"p" * 32 + b"p" * 1184 + b"m" * 1044992 + b"f" * 21520
    server = b"\1" + b"p" * 32 + b"c" * 1088 + b"m" * 208 + b"f" * 21632
    said = b"Classic-McEliece-6688128\nFrodoKEM-1344-AES\n"
    info = b"rtunnel hedged root" + b"".join(sha256(each).digest() for each in (said, client, server))
    root = _hkdf(EXPORTED, b"x" * 32 + b"k" * 32 + b"1" * 32 + b"2" * 32, info)
    assert _root(one, other) == (root, root)
    assert root.hex() == "d0cff88218adda92297bb8cee4ad5a378939ff9b8a763a7749b72687942d0e4e"


@pytest.mark.usefixtures("no_chance")
def test_without_hedges_the_root_is_as_ever() -> None:
    root = _hkdf(EXPORTED, b"x" * 32 + b"k" * 32, b"rtunnel root")
    assert _root() == (root, root)


@pytest.mark.usefixtures("no_chance")
def test_every_part_counts() -> None:
    kem = KEMS[FRODO]
    roots = {
        *_root(),
        *_root(Toy(kem)),
        *_root(Toy(kem, secret=b"t" * 32)),
        *_root(Toy(kem, filler=b"g")),
        *_root(Toy(KEMS[MCELIECE])),
        *_root(Toy(KEMS[MCELIECE]), Toy(kem)),
    }
    assert len(roots) == 6
    assert len({*_root(Toy(kem), server=[Toy(kem, secret=b"t" * 32)])}) == 2


def test_lengths() -> None:
    client = ClientAgreement(AES, [Toy(KEMS[MCELIECE]), Toy(KEMS[FRODO])])
    assert len(client.message) == client_length([MCELIECE, FRODO]) == 1217 + 1044992 + 21520
    payload, _ = answer(client.message, EXPORTED, AES, [Toy(KEMS[MCELIECE]), Toy(KEMS[FRODO])])
    assert len(payload) == server_length([MCELIECE, FRODO]) == 1121 + 208 + 21632
    assert (client_length(), server_length()) == (1217, 1121)


def test_keys_of_another_length() -> None:
    hedges = [Toy(KEMS[FRODO])]
    client = ClientAgreement(AES, hedges)
    with pytest.raises(ValueError, match=r"^KEYS of 22736 bytes where 22737 belong$"):
        answer(client.message[:-1], EXPORTED, AES, hedges)
    with pytest.raises(ValueError, match=r"^KEYS of 22737 bytes where 1217 belong$"):
        answer(client.message, EXPORTED, AES)
    with pytest.raises(ValueError, match=r"^KEYS of 1121 bytes where 22753 belong$"):
        client.finish(answer(ClientAgreement(AES).message, EXPORTED, AES)[0], EXPORTED)
    with pytest.raises(ValueError, match=r"^a second KEYS$"):
        client.finish(answer(client.message, EXPORTED, AES, hedges)[0], EXPORTED)


@pytest.mark.parametrize("length", [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 1067729])
def test_pieces_make_the_whole(length: int) -> None:
    whole = bytes(index % 251 for index in range(length))
    pieces, parts = KeyPieces(length), cut(whole)
    assert [pieces.take(part) for part in parts] == [None] * (len(parts) - 1) + [whole]
    assert (pieces.count, pieces.held) == (-(-length // PIECE), 0)
    for more in (b"", b"x"):
        with pytest.raises(ValueError, match=r"^a second KEYS$"):
            pieces.take(more)


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE + 1])
def test_a_piece_of_another_length(length: int) -> None:
    pieces = KeyPieces(PIECE + 10)
    with pytest.raises(ValueError, match=f"^a piece of KEYS of {length} bytes where {PIECE} belong$"):
        pieces.take(bytes(length))
    assert pieces.take(bytes(PIECE)) is None
    assert pieces.held == PIECE
    with pytest.raises(ValueError, match=r"^a piece of KEYS of 11 bytes where 10 belong$"):
        pieces.take(bytes(11))


def test_names_have_one_order() -> None:
    assert ordered([FRODO, MCELIECE, FRODO]) == (MCELIECE, FRODO)
    assert ordered([]) == ()
    with pytest.raises(ValueError, match=f"^'Kyber' is not one of {MCELIECE}, {FRODO}$"):
        ordered([FRODO, "Kyber"])


def test_why_nothing_is_carried() -> None:
    assert why_different((), ()) == why_different([FRODO], (FRODO,)) == ""
    assert why_different([MCELIECE, FRODO], ()) == (
        f"the client has --hedge {MCELIECE},{FRODO}, the server no --hedge; "
        "nothing is carried before both have the same"
    )
    assert why_different((), (FRODO,)).startswith(f"the client has no --hedge, the server --hedge {FRODO}; ")
