"""PEM: whatever the bytes are, it is read or it is a ValueError."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from hypothesis import given, strategies as st

from rtunnel.pki import pem
from rtunnel.pki.authority import issue, make_ca, make_crl
from rtunnel.pki.certificates import Algorithm, Kind, fits, is_from

CA = make_ca(algorithm=Algorithm.ED25519)
CRL = make_crl(CA).public_bytes(Encoding.PEM)
LAPTOP = issue(CA, Kind.CLIENT, "laptop")
LOADERS = [pem.load_certificate, pem.load_certificates, pem.load_key, pem.load_crl]


def test_what_was_written_is_read() -> None:
    assert pem.load_certificate(CA.certificate_pem) == CA.certificate
    assert pem.load_certificates(LAPTOP.certificate_pem + CA.certificate_pem) == [LAPTOP.certificate, CA.certificate]
    assert fits(pem.load_key(LAPTOP.key_pem), LAPTOP.certificate)
    assert is_from(pem.load_crl(CRL), CA.certificate)


def test_blocks() -> None:
    content = b"a comment\n" + CA.certificate_pem + b"\n" + LAPTOP.key_pem + CRL + b"-----BEGIN CERTIFICATE-----\nhalf"
    assert [label for label, _ in pem.blocks(content)] == [pem.CERTIFICATE, pem.PRIVATE_KEY, pem.CRL]
    assert [block + b"\n" for _, block in pem.blocks(content)] == [CA.certificate_pem, LAPTOP.key_pem, CRL]
    assert not list(pem.blocks(b""))


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_keys_with_a_passphrase(form: PrivateFormat) -> None:
    key = make_ca(algorithm=Algorithm.ECDSA_P256).key
    content = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
    assert pem.is_encrypted(content)
    assert not pem.is_encrypted(LAPTOP.key_pem)
    with pytest.raises(ValueError, match=r".+"):
        pem.load_key(content)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "content", [b"", b"x", CA.certificate_pem[:200], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END "]
)
def test_nonsense(load: Callable[[bytes], object], content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        load(content)


@given(st.sampled_from(LOADERS), st.data())
def test_a_changed_byte(load: Callable[[bytes], object], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([LAPTOP.certificate_pem, LAPTOP.key_pem, CRL])))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        load(bytes(content))
