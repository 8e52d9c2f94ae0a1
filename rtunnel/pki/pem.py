"""PEM (RFC 7468): certificates, private keys and revocation lists.

Every function raises :exc:`ValueError` for bytes that it cannot read, and nothing else; callers say which file it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from rtunnel.pki import ml_dsa

CERTIFICATE = "CERTIFICATE"
CRL = "X509 CRL"
PRIVATE_KEY = "PRIVATE KEY"

# Each line is looked at by itself. One expression for a whole block would look for the end of each beginning anew, all
# the way to the end of the file.
_MARK = re.compile(rb"-----(?:(BEGIN) ([A-Z0-9 ]{1,64})-----(?=\s)|END ([A-Z0-9 ]{1,64})-----)")
#: What cryptography raises for bytes that it cannot read, apart from :exc:`ValueError`.
_OTHER_ERRORS = (
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_LOCKED = re.compile(rb"-----BEGIN ENCRYPTED|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)


def blocks(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the label and the whole text of each complete block, in order."""
    label, begin = b"", 0
    for mark in _MARK.finditer(content):
        if mark[1]:
            label, begin = mark[2], mark.start()
        elif mark[3] == label:
            yield label.decode("ascii"), content[begin : mark.end()]
            label = b""


def only_key(content: bytes) -> bytes:
    """Return the first private key in *content* without what is before it, or all of it if there is none.

    OpenSSL's reader of private keys goes on to the next block only as long as nothing else has failed before in the
    same thread, for example with a peer.
    """
    return next((block for label, block in blocks(content) if label.endswith(PRIVATE_KEY)), content)


def is_encrypted(content: bytes) -> bool:
    """Return whether a private key needs a passphrase."""
    return _LOCKED.search(content) is not None


def load_certificate(content: bytes) -> x509.Certificate:
    """Return the first certificate, all of whose fields can be read."""
    with _as_value_error():
        certificate = x509.load_pem_x509_certificate(content)
        # cryptography decodes these on first use: do it now, rather than fail halfway through something.
        _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key()
        return certificate


def load_certificates(content: bytes) -> list[x509.Certificate]:
    """Return all certificates, of which there is at least one."""
    with _as_value_error():
        certificates = x509.load_pem_x509_certificates(content)
        # cryptography decodes these on first use.
        _ = [(each.subject, each.issuer) for each in certificates]
        return certificates


def load_key(content: bytes) -> PrivateKeyTypes:
    """Return a private key that is not encrypted.

    :raises SeedMissing: it is an ML-DSA key in its expanded form alone, see :mod:`rtunnel.pki.ml_dsa`.
    """
    with _as_value_error():
        try:
            return load_pem_private_key(content, None)
        except ValueError:
            block = next((block for label, block in blocks(content) if label == PRIVATE_KEY), None)
            if block is None:
                raise
            return ml_dsa.load_key(block)


def load_crl(content: bytes) -> x509.CertificateRevocationList:
    """Return a revocation list, all of whose fields can be read."""
    with _as_value_error():
        crl = x509.load_pem_x509_crl(content)
        _ = crl.issuer, crl.extensions, len(crl)
        return crl


@contextmanager
def _as_value_error() -> Iterator[None]:
    try:
        yield
    except _OTHER_ERRORS as error:
        raise ValueError(str(error)) from error
