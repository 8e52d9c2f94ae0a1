"""Certificates of other people's CAs: which keys TLS can use, and what the operator reads about the others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from rtunnel.errors import ConfigError
from rtunnel.pki.certificates import classical_problem, is_post_quantum, key_kind
from rtunnel.tls.credentials import Credentials, load
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.policy import Role, TlsSettings
from rtunnel.tls.web_server import load_web_files
from tests.tls.parts import Authority, Holder, pem, with_version
from tests.tls.test_engine import exchange

#: A self-signed certificate with a key on prime239v1, the default curve of Bouncy Castle, and its key.
PRIME_239 = (
    """
-----BEGIN CERTIFICATE-----
MIIBjDCCATegAwIBAgIUUqCUS/Tq5q1V50mDrHEeudFwY4gwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGc2VydmVyMCAXDTI2MTEyOTAxMTMyNFoYDzIxMjYxMTA1MDEx
MzI0WjARMQ8wDQYDVQQDDAZzZXJ2ZXIwVTATBgcqhkjOPQIBBggqhkjOPQMBBAM+
AARaq0m2FRS6Rq6z7UO6ySmbJERUnmbhDtT+ToYuXFh2K3F5M/fJV4LzpJJk/kvS
V0wTCTDacCIroP/1VhejbzBtMB0GA1UdDgQWBBSTkWYjCyAgAaUvfwNj5CwDCE2f
jjAfBgNVHSMEGDAWgBSTkWYjCyAgAaUvfwNj5CwDCE2fjjAPBgNVHRMBAf8EBTAD
AQH/MBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAKBggqhkjOPQQDAgNDADBA
Ah56lIxIoh3C/8i7hocenuQ0w3wOU/vE00pjm4XI3BECHhXwTEJkw1g72AhS+lg2
g2tBbpVx7QV85DjNdMYxjQ==
-----END CERTIFICATE-----
""",
    """
-----BEGIN PRIVATE KEY-----
MIGBAgEAMBMGByqGSM49AgEGCCqGSM49AwEEBGcwZQIBAQQebX1rVq7BGNeUyV1R
fqySx4e0BQPCuNbIVRtEvrAGoUADPgAEWqtJthUUukaus+1DuskpmyREVJ5m4Q7U
/k6GLlxYditxeTP3yVeC86SSZP5L0ldMEwkw2nAiK6D/9VYX
-----END PRIVATE KEY-----
""",
)

#: RFC 9909, appendix C.
SLH_DSA = """
-----BEGIN PRIVATE KEY-----
MFICAQAwCwYJYIZIAWUDBAMUBECiJjvKRYYINlIxYASVI9YhZ3+tkNUetgZ6Mn4N
HmSlASuBCex3fKpOHwJMz8+Ul9mRgFCSgPQlavKwevgCibSU
-----END PRIVATE KEY-----
"""


def load_both(role: Role, tls: TlsSettings) -> None:
    """Read the files as a link's end, and as the server's end of wss."""
    errors = []
    for read in (lambda: load(tls, role), lambda: load_web_files(tls.cert, tls.key)):
        try:
            read()
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        assert len(set(errors)) == 1
        raise ConfigError(errors[0])


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", ["ECDSA", "P-384", "P-521", "Ed25519", "Ed448", "RSA"])
def test_keys_that_tls_can_use(kind: str, role: Role, authority: Authority) -> None:
    holder = authority.server(kind=kind) if role is Role.SERVER else authority.client(kind=kind)
    load_both(role, authority.trusts(holder, allow_classical_certs=True))


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", ["brainpoolP256r1", "secp256k1", "prime239v1"])
def test_keys_that_tls_cannot_use(kind: str, role: Role, authority: Authority) -> None:
    holder: Holder
    if kind == "prime239v1":
        holder = authority.server()
        holder.cert.write_text(PRIME_239[0])
        holder.key.write_text(PRIME_239[1])
    else:
        holder = authority.issue("x", None, kind=kind)
    with pytest.raises(ConfigError) as caught:
        load_both(role, authority.trusts(holder, allow_classical_certs=True))
    assert str(caught.value) == (
        f"{holder.cert} has a key of ECDSA for which TLS 1.3 has no signature; use one of ML-DSA, ECDSA with P-256, "
        "P-384 or P-521, Ed25519, or RSA"
    )


def test_a_short_key(authority: Authority) -> None:
    holder = authority.server(kind="RSA-1024")
    with pytest.raises(ConfigError) as caught:
        load_both(Role.SERVER, authority.trusts(holder, allow_classical_certs=True))
    assert str(caught.value) == (
        f"{holder.cert} has a key that is too short to be safe; take RSA with at least 2048 bits, or another kind"
    )


def with_key_of(number: int, authority: Authority) -> x509.Certificate:
    """The CA's certificate, as if its key were of another of NIST's signatures (2.16.840.1.101.3.4.3.NUMBER)."""
    ml_dsa_65 = bytes.fromhex("0609608648016503040312")
    # It occurs as the algorithm of the signature, of the key, and of the signature again.
    head, before_key, after_key, end = authority.certificate.public_bytes(Encoding.DER).split(ml_dsa_65)
    other = ml_dsa_65[:-1] + bytes([number])
    return x509.load_der_x509_certificate(head + ml_dsa_65 + before_key + other + after_key + ml_dsa_65 + end)


@pytest.mark.parametrize(
    ("number", "kind"), [(20, "SLH-DSA-SHA2-128s"), (25, "SLH-DSA-SHA2-256f"), (31, "SLH-DSA-SHAKE-256f")]
)
def test_slh_dsa_is_post_quantum(number: int, kind: str, authority: Authority) -> None:
    """A CA may have such a key."""
    holder = authority.server()
    ca = with_key_of(number, authority)
    authority.cert.write_bytes(ca.public_bytes(Encoding.PEM))
    assert key_kind(ca) == kind
    assert is_post_quantum(ca)
    load(authority.trusts(holder), Role.SERVER)


def test_a_ca_of_slh_dsa(authority: Authority, tmp_path: Path) -> None:
    """OpenSSL signs and verifies with it, cryptography does not know it."""
    lib: Any = Binding().lib
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        key: Any = crypto.load_privatekey(crypto.FILETYPE_PEM, SLH_DSA.encode())
        own = authority.server()
        own_key: Any = crypto.load_privatekey(crypto.FILETYPE_PEM, own.key.read_bytes())
        ca: Any = crypto.X509()
        ca.get_subject().CN = "SLH-DSA CA"
        leaf: Any = crypto.X509()
        leaf.get_subject().CN = "server"
        for number, certificate, public in ((1, ca, key), (2, leaf, own_key)):
            certificate.set_serial_number(number)
            certificate.set_issuer(ca.get_subject())
            certificate.set_notBefore(b"20260101000000Z")
            certificate.set_notAfter(b"20760101000000Z")
            assert lib.X509_set_pubkey(certificate._x509, public._pkey)
            assert lib.X509_sign(certificate._x509, key._pkey, Binding().ffi.NULL)
        ca_file = tmp_path / "slh.crt"
        ca_file.write_bytes(crypto.dump_certificate(crypto.FILETYPE_PEM, ca))
        own.cert.write_bytes(crypto.dump_certificate(crypto.FILETYPE_PEM, leaf))
    client = authority.client()
    first = TlsEngine(Credentials(authority.trusts(own), Role.SERVER))
    second = TlsEngine(Credentials(TlsSettings(client.cert, client.key, ca_file), Role.CLIENT))
    second.start()
    exchange(first, second)
    assert second.failure == ""
    assert second.peer is not None
    assert second.peer.name == "server"
    assert key_kind(second.peer.issuers[0]) == "SLH-DSA-SHA2-128s"


def test_a_kind_that_nobody_knows(authority: Authority) -> None:
    ca = with_key_of(99, authority)
    assert not is_post_quantum(ca)
    assert classical_problem(ca) == (
        "has a key of an unknown algorithm (2.16.840.1.101.3.4.3.99), which is not known to resist quantum computers"
    )


def test_a_version_that_nobody_knows(authority: Authority) -> None:
    """cryptography has an exception of its own for it."""
    holder = authority.server()
    for path in (holder.cert, authority.cert):
        good = path.read_bytes()
        path.write_text(with_version(x509.load_pem_x509_certificate(good), 7))
        with pytest.raises(ConfigError, match=f"{path} is not a certificate in PEM"):
            load(authority.trusts(holder), Role.SERVER)
        path.write_bytes(good)


def test_a_name_that_openssl_cannot_read(authority: Authority) -> None:
    """cryptography reads it, as it does not look at it in time."""
    holder = authority.server("server\N{SNOWMAN}", file="odd")
    for path, name in ((holder.cert, "server\N{SNOWMAN}"), (authority.cert, "test CA")):
        good = path.read_bytes()
        der = x509.load_pem_x509_certificate(good).public_bytes(Encoding.DER)
        text = name.encode()
        assert text in der
        path.write_text(pem(der.replace(text, b"\xff" * len(text))))
        with pytest.raises(ConfigError, match=f"{path} "):
            load(authority.trusts(holder), Role.SERVER)
        path.write_bytes(good)


def test_the_key_of_another_certificate(authority: Authority) -> None:
    """A key of another certificate is still told from one that cannot be used."""
    holder, other = authority.server(), authority.server("other")
    with pytest.raises(ConfigError, match=r"other.key is not the key of .*server.crt; give the two that belong"):
        load_both(Role.SERVER, TlsSettings(holder.cert, other.key, authority.cert))
