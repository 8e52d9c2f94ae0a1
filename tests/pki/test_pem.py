"""PEM: whatever the bytes are, it is read or it is a ValueError."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, strategies as st
from OpenSSL import crypto

from rtunnel.errors import PkiError
from rtunnel.pki import pem
from rtunnel.pki.authority import issue, make_ca, make_crl
from rtunnel.pki.certificates import Algorithm, Kind, PrivateKey, fits, is_from
from rtunnel.pki.ml_dsa import SeedMissing
from rtunnel.pki.store import parse_key

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


def other_forms(key: PrivateKey) -> tuple[bytes, bytes]:
    """An ML-DSA key as OpenSSL 3.5 and Bouncy Castle write it: seed and expanded form together, and the latter alone.

    The first is written by OpenSSL itself, the second is cut out of it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        seed_only = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        loaded = crypto.load_privatekey(crypto.FILETYPE_PEM, seed_only)
        both = crypto.dump_privatekey(crypto.FILETYPE_ASN1, loaded)
    # version 0, the algorithm, and an OCTET STRING with SEQUENCE {seed, expanded}, all with lengths of two bytes
    begin, expanded = both[4:20], both[20 + 4 + 4 + 34 :]
    inner = b"\x04\x82" + len(expanded).to_bytes(2, "big") + expanded
    alone = b"\x30\x82" + (len(begin) + len(inner)).to_bytes(2, "big") + begin + inner
    return as_pem(both), as_pem(alone)


def as_pem(der: bytes) -> bytes:
    lines = base64.encodebytes(der)
    return b"-----BEGIN PRIVATE KEY-----\n" + lines + b"-----END PRIVATE KEY-----\n"


ML_DSA = [Algorithm.ML_DSA_44, Algorithm.ML_DSA_65, Algorithm.ML_DSA_87]


@pytest.mark.parametrize("algorithm", ML_DSA)
def test_ml_dsa_keys_of_other_programs(algorithm: Algorithm) -> None:
    ca = make_ca(algorithm=algorithm)
    both, alone = other_forms(ca.key)
    # Both are what OpenSSL takes, too.
    for form in (both, alone):
        assert crypto.load_privatekey(crypto.FILETYPE_PEM, form).bits()
    assert fits(pem.load_key(b"a comment\n" + both), ca.certificate)
    with pytest.raises(SeedMissing):
        pem.load_key(alone)


def test_a_key_without_its_seed_is_explained() -> None:
    with pytest.raises(PkiError) as caught:
        parse_key(other_forms(make_ca().key)[1], "ca.key")
    assert str(caught.value) == (
        "ca.key has an ML-DSA key without its seed, and only --tls-key can use that; export it with the seed where it "
        "was made (openssl pkey -provparam ml-dsa.output_formats=seed-only), or make a new one"
    )


BOTH = other_forms(make_ca().key)[0]


@given(st.data())
def test_a_changed_byte_of_such_a_key(data: st.DataObject) -> None:
    content = bytearray(BOTH)
    content[data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        pem.load_key(bytes(content))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "content", [b"", b"x", CA.certificate_pem[:200], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END "]
)
def test_nonsense(load: Callable[[bytes], object], content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        load(content)


#: cryptography warns of those that are not positive.
any_serial_number = pytest.mark.filterwarnings("ignore:Parsed a serial number")


@any_serial_number
def test_a_negative_serial_number_is_read() -> None:
    content = LAPTOP.certificate.public_bytes(Encoding.DER)
    serial = LAPTOP.certificate.serial_number
    number = serial.to_bytes(serial.bit_length() // 8 + 1)
    changed = base64.encodebytes(content.replace(number, b"\x80" + number[1:]))
    content = b"-----BEGIN CERTIFICATE-----\n" + changed + b"-----END CERTIFICATE-----\n"
    assert pem.load_certificate(content).serial_number < 0


@any_serial_number
@given(st.sampled_from(LOADERS), st.data())
def test_a_changed_byte(load: Callable[[bytes], object], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([LAPTOP.certificate_pem, LAPTOP.key_pem, CRL])))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        load(bytes(content))
