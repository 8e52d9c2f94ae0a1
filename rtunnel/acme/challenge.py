"""The certificate with which a CA is shown that a name is ours: TLS-ALPN-01 (RFC 8737)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL

from rtunnel.tls.openssl import write_whole
from rtunnel.tls.policy import ACME
from rtunnel.tls.web_server import web_context

#: id-pe-acmeIdentifier (RFC 8737, section 3).
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


def challenge_certificate(name: str, key_authorization: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Return the self-signed certificate that proves that *name* is ours.

    :param key_authorization: the CA's token and the thumbprint of the account's key.
    """
    # An OCTET STRING of 32 bytes, in DER.
    digest = b"\x04\x20" + hashlib.sha256(key_authorization.encode("ascii")).digest()
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "TLS-ALPN-01")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(issuer)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, digest), critical=True)
        .sign(key, SHA256())
    )


def challenge_context(name: str, key_authorization: str) -> SSL.Context:
    """Return the context for connections of a CA that checks whether *name* is ours."""
    key = ec.generate_private_key(ec.SECP256R1())
    context = web_context()
    write_whole(context)
    context.use_certificate(challenge_certificate(name, key_authorization, key))
    context.use_privatekey(key)
    context.set_alpn_select_callback(lambda _connection, _offered: ACME)
    return context
