"""The certificate of TLS-ALPN-01, as another program reads it."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from rtunnel.acme.challenge import ACME_IDENTIFIER, challenge_certificate
from tests.process.harness import need

NAME = "app.example.org"


@pytest.mark.process
def test_as_openssl_reads_it() -> None:
    openssl = need("openssl")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = challenge_certificate(NAME, "token.thumbprint", key)
    shown = subprocess.run(
        [openssl, "x509", "-noout", "-text"],
        input=certificate.public_bytes(Encoding.PEM),
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert "1.3.6.1.5.5.7.1.31: critical" in shown
    assert f"DNS:{NAME}" in shown
    parsed = subprocess.run(
        [openssl, "asn1parse", "-inform", "DER"],
        input=certificate.extensions.get_extension_for_oid(ACME_IDENTIFIER).value.public_bytes(),
        capture_output=True,
        check=True,
    ).stdout.decode()
    digest = hashlib.sha256(b"token.thumbprint").hexdigest().upper()
    assert parsed.count("\n") == 1
    assert "l=  32 prim: OCTET STRING" in parsed
    assert f"[HEX DUMP]:{digest}" in parsed


def test_the_only_name_is_the_one_to_be_proved() -> None:
    certificate = challenge_certificate(NAME, "token.thumbprint", ec.generate_private_key(ec.SECP256R1()))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(NAME)]
    certificate.verify_directly_issued_by(certificate)
