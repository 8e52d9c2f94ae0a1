"""A second signature of an identity: what proves it, and what does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.x509.oid import NameOID
from hypothesis import given, strategies as st

from rtunnel.errors import ConfigError
from rtunnel.tls.hedge.schemes import SCHEMES
from rtunnel.tls.hedge.second import MOST_PROOF, OID, SecondKey, check_second, second_of
from tests.needs import LIBOQS, needs_liboqs

pytestmark = needs_liboqs

EXPORTED = bytes(range(32))
KEYS = {name: SecondKey.make(name) for name in SCHEMES} if LIBOQS else {}


def _certificate(extension: x509.UnrecognizedExtension | None) -> x509.Certificate:
    key = MLDSA65PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "laptop")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, None)


CERTIFICATES = {name: _certificate(key.extension) for name, key in KEYS.items()}


@pytest.mark.parametrize("name", SCHEMES)
def test_it_is_proved(name: str) -> None:
    key = KEYS[name]
    certificate = _certificate(key.extension)
    assert second_of(certificate) == (name, sha256(key.public).digest())
    proof = key.prove(EXPORTED, "host")
    assert len(proof) <= MOST_PROOF
    assert check_second(certificate, EXPORTED, "host", proof) == name


@pytest.mark.parametrize("name", SCHEMES)
def test_it_is_not_proved(name: str) -> None:
    key, other = KEYS[name], SecondKey.make(name)
    certificate = _certificate(key.extension)
    proof = key.prove(EXPORTED, "host")
    for exported, role in ((EXPORTED[::-1], "host"), (EXPORTED, "client")):
        with pytest.raises(ValueError, match=rf"^the {role}'s second signature \({name}\) is wrong$"):
            check_second(certificate, exported, role, proof)
    with pytest.raises(ValueError, match=rf"^the host's certificate names a second key \({name}\), and the host has n"):
        check_second(certificate, EXPORTED, "host", b"")
    with pytest.raises(ValueError, match=rf"^the host's second key \({name}\) is not the one in its certificate$"):
        check_second(certificate, EXPORTED, "host", other.prove(EXPORTED, "host"))
    for odd in (proof[:1], proof[: 2 + len(key.public)], b"\0\0" + proof[2:], b"\xff" * 100):
        with pytest.raises(ValueError, match=rf"^the host's second signature \({name}\) is malformed$"):
            check_second(certificate, EXPORTED, "host", odd)
    for odd in (proof[:-1] + bytes([proof[-1] ^ 1]), proof + b"x" * 2000, proof[:2000]):
        with pytest.raises(ValueError, match=rf"^the host's second (signature|key) \({name}\) is "):
            check_second(certificate, EXPORTED, "host", odd)


@given(st.sampled_from(sorted(SCHEMES)), st.binary(max_size=8192), st.booleans())
def test_whatever_comes_it_is_refused(name: str, junk: bytes, has_key: bool) -> None:
    key = KEYS[name]
    proof = key.prove(EXPORTED, "host")[: 2 + len(key.public)] + junk if has_key else junk
    with pytest.raises(ValueError, match=rf"^the host's (certificate|second (key|signature)).* \({name}\)"):
        check_second(CERTIFICATES[name], EXPORTED, "host", proof)


def test_a_certificate_that_demands_none() -> None:
    certificate = _certificate(None)
    assert second_of(certificate) is None
    assert check_second(certificate, EXPORTED, "host", b"whatever") == ""


@pytest.mark.parametrize("value", [b"", b"MAYO-5", bytes(32), b" " + bytes(32), b"MAYO-5" + bytes(32), b"MAYO-5  "])
def test_a_certificate_that_demands_something_odd(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"^the host's certificate names a second key in an unknown way$"):
        check_second(_certificate(x509.UnrecognizedExtension(OID, value)), EXPORTED, "host", b"x")


def test_a_scheme_of_a_later_version() -> None:
    certificate = _certificate(x509.UnrecognizedExtension(OID, b"SNOVA-5 " + bytes(32)))
    with pytest.raises(ConfigError, match=r"^this rtunnel knows no such kind; update it$"):
        check_second(certificate, EXPORTED, "host", b"x")


@pytest.mark.parametrize("name", SCHEMES)
def test_the_file(name: str) -> None:
    text = KEYS[name].write()
    assert max(map(len, text.splitlines())) <= 64
    assert SecondKey.read(text) == KEYS[name]
    assert SecondKey.read(f"\n{text}\n") == KEYS[name]
    lines = text.splitlines()
    for odd in ("", "x", lines[0], "\n".join(lines[1:]), "\n".join([lines[0], "====", lines[-1]])):
        with pytest.raises(ValueError, match=r"^its second key cannot be read$"):
            SecondKey.read(odd)
    with pytest.raises(ValueError, match=r"^its second key was cut$"):
        SecondKey.read("\n".join([*lines[:3], lines[-1]]))


@pytest.mark.parametrize("name", SCHEMES)
def test_a_file_whose_halves_do_not_belong_together(name: str) -> None:
    key, other = KEYS[name], SecondKey.make(name)
    with pytest.raises(ValueError, match=r"^its second key is damaged$"):
        SecondKey.read(SecondKey(name, key.public, other.private).write())
    with pytest.raises(ValueError, match=r"^its second key is damaged$"):
        SecondKey.read(SecondKey(name, key.public, bytes(len(key.private))).write())


def test_a_name_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"^'SPHINCS' is not one of Falcon-1024, MAYO-5$"):
        SecondKey.make("SPHINCS")


def test_no_representation_shows_the_key() -> None:
    assert "private" not in repr(KEYS["MAYO-5"])
