"""The native liboqs: known answers, and what it refuses."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from rtunnel.tls.hedge import liboqs
from rtunnel.wire.data.hedges import KEMS, SECRET
from rtunnel.wire.data.keys import ClientAgreement, answer
from rtunnel.wire.data.seal import Cipher as RecordCipher
from tests.needs import needs_liboqs

pytestmark = needs_liboqs

MCELIECE, FRODO = KEMS
AES = RecordCipher.AES_256_GCM

#: SHA-256 of the first entry of each algorithm's file of known answers, as NIST's program writes it (PQCgenKAT_kem.c
#: of the submissions). From tests/KATs/kem/kats.json of liboqs 0.13.0, "single".
KNOWN_ANSWERS = {
    MCELIECE: "4c825bf86378d76b197caca6f957942c0cc98b50ce4a6b26cad6efa25d1d20c6",
    FRODO: "2f4f1c352c1b343cce386c54234ca39fe29b48e45c66300f7311f5d3060d82b3",
}


class Drbg:
    """The generator of NIST's program: CTR_DRBG with AES-256, without derivation function (SP 800-90A, 10.2.1)."""

    def __init__(self, entropy: bytes) -> None:
        self._key, self._counter = bytes(32), 0
        self._update(entropy)

    def _blocks(self, count: int) -> bytes:
        encryptor = Cipher(algorithms.AES(self._key), modes.ECB()).encryptor()  # it is what the DRBG does
        found = b""
        for _ in range(count):
            self._counter = (self._counter + 1) % 2**128
            found += encryptor.update(self._counter.to_bytes(16, "big"))
        return found

    def _update(self, data: bytes) -> None:
        mixed = bytes(one ^ other for one, other in zip(self._blocks(3), data, strict=True))
        self._key, self._counter = mixed[:32], int.from_bytes(mixed[32:], "big")

    def take(self, count: int) -> bytes:
        found = self._blocks(-(-count // 16))[:count]
        self._update(bytes(48))
        return found


#: The same of signatures, from tests/KATs/sig/kats.json (PQCgenKAT_sign.c).
KNOWN_SIGNATURES = {
    "Falcon-1024": "e699d88eb214fef30597385f40814baeb84ac505d5f05f5c257b0726fc4530b8",
    "MAYO-5": "9a2ede41913131ab479c2581a1a8e86b97222d800aeb16bf67f6163481f2d587",
}


@pytest.fixture
def library() -> Iterator[Any]:
    """The library, whose random bytes the test decides by its attribute ``drbg``."""

    class Random:
        drbg = Drbg(bytes(range(48)))

    kept = Random()
    library = liboqs.load()._library
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)

    def fill(target: int, count: int) -> None:
        ctypes.memmove(target, kept.drbg.take(count), count)

    callback = kind(fill)
    library.OQS_randombytes_custom_algorithm(callback)
    yield kept
    assert library.OQS_randombytes_switch_algorithm(b"system") == 0


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_known_answers(name: str, library: Any) -> None:
    seed = library.drbg.take(48)
    library.drbg = Drbg(seed)
    kem = liboqs.load().kem(name)
    public, private = kem.generate()
    ciphertext, secret = kem.encapsulate(public)
    assert kem.decapsulate(ciphertext, private) == secret
    fields = {"seed": seed, "pk": public, "sk": private, "ct": ciphertext, "ss": secret}
    entry = "count = 0\n" + "".join(f"{key} = {value.hex().upper()}\n" for key, value in fields.items())
    assert sha256(entry.encode()).hexdigest() == KNOWN_ANSWERS[name]


@pytest.mark.parametrize("name", KNOWN_SIGNATURES)
def test_known_signatures(name: str, library: Any) -> None:
    seed, message = library.drbg.take(48), library.drbg.take(33)
    library.drbg = Drbg(seed)
    scheme = liboqs.signature(name)
    public, private = scheme.generate()
    signature = scheme.sign(message, private)
    assert scheme.verify(message, signature, public)
    # How each of them joins message and signature in NIST's files.
    signed = {
        "Falcon-1024": (len(signature) - 40).to_bytes(2, "big") + signature[1:41] + message + b"\x2a" + signature[41:],
        "MAYO-5": signature + message,
    }[name]
    entry = (
        f"count = 0\nseed = {seed.hex().upper()}\nmlen = 33\nmsg = {message.hex().upper()}\n"
        f"pk = {public.hex().upper()}\nsk = {private.hex().upper()}\n"
        f"smlen = {len(signed)}\nsm = {signed.hex().upper()}\n"
    )
    assert sha256(entry.encode()).hexdigest() == KNOWN_SIGNATURES[name]


@pytest.mark.parametrize("names", [[MCELIECE], [FRODO], [FRODO, MCELIECE]])
def test_both_ends_have_the_same_root(names: list[str]) -> None:
    hedges = liboqs.hedges(names)
    assert [hedge.kem.name for hedge in hedges] == [name for name in KEMS if name in names]
    client = ClientAgreement(AES, hedges)
    payload, root = answer(client.message, bytes(32), AES, hedges)
    assert client.finish(payload, bytes(32)) == root
    other = ClientAgreement(AES, hedges)
    assert other.message != client.message
    assert other.finish(payload, bytes(32)) != root, "a ciphertext for another key gives another secret, and no error"


@pytest.mark.parametrize("name", KEMS)
def test_what_has_another_length_never_gets_to_the_library(name: str) -> None:
    (hedge,) = liboqs.hedges([name])
    public, private = hedge.generate()
    ciphertext, secret = hedge.encapsulate(public)
    assert len(secret) == SECRET
    for odd in (b"", public[:-1], public + b"x"):
        with pytest.raises(ValueError, match=f"^KEYS with a bad key of {name}$"):
            hedge.encapsulate(odd)
    for odd, key in ((b"", private), (ciphertext[:-1], private), (ciphertext + b"x", private), (ciphertext, b"")):
        with pytest.raises(ValueError, match=f"^KEYS with a bad ciphertext of {name}$"):
            hedge.decapsulate(odd, key)


def test_keys_made_of_anything_are_no_error_worse_than_value_error() -> None:
    for hedge in liboqs.hedges(list(KEMS)):
        for filler in (b"\0", b"\xff", b"\xa5"):
            try:
                ciphertext, _ = hedge.encapsulate(filler * hedge.kem.public_key)
            except ValueError:
                continue
            assert len(ciphertext) == hedge.kem.ciphertext
