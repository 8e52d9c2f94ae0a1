"""What a certificate says, in our words: what it is for, what it signs with, whose it is.

:class:`Algorithm` names what signs: ML-DSA (FIPS 204), or something classical for those who have a CA already.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias, TypeGuard, TypeVar, get_args

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
    PrivateKeyTypes,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey: TypeAlias = CertificateIssuerPrivateKeyTypes
PublicKey: TypeAlias = CertificatePublicKeyTypes
ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)


class Algorithm(StrEnum):
    """What a key signs with."""

    ML_DSA_44 = "ml-dsa-44"
    ML_DSA_65 = "ml-dsa-65"
    ML_DSA_87 = "ml-dsa-87"
    ECDSA_P256 = "ecdsa-p256"
    ED25519 = "ed25519"
    RSA_3072 = "rsa-3072"

    @property
    def post_quantum(self) -> bool:
        return self.value.startswith("ml-dsa-")


class Kind(StrEnum):
    """What a certificate is for."""

    CA = "ca"
    SERVER = "server"
    CLIENT = "client"


PURPOSES = {Kind.SERVER: ExtendedKeyUsageOID.SERVER_AUTH, Kind.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and the key that fits it."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key in PKCS #8, without a passphrase."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 over the certificate, as pins are written: 64 lowercase hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def algorithm_of(certificate: x509.Certificate) -> Algorithm | None:
    """The algorithm of a certificate's key; None: none of those that we make."""
    key = certificate.public_key()
    match key:
        case mldsa.MLDSA44PublicKey():
            return Algorithm.ML_DSA_44
        case mldsa.MLDSA65PublicKey():
            return Algorithm.ML_DSA_65
        case mldsa.MLDSA87PublicKey():
            return Algorithm.ML_DSA_87
        case ed25519.Ed25519PublicKey():
            return Algorithm.ED25519
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return Algorithm.ECDSA_P256
        case rsa.RSAPublicKey() if key.key_size == 3072:
            return Algorithm.RSA_3072
    return None


def kind_of(certificate: x509.Certificate) -> Kind | None:
    """What a certificate is for; None: it does not say, or says more than one."""
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        return Kind.CA
    usage = extension(certificate, x509.ExtendedKeyUsage)
    kinds = [kind for kind, purpose in PURPOSES.items() if usage is not None and purpose in usage]
    return kinds[0] if len(kinds) == 1 else None


def common_name(certificate: x509.Certificate) -> str:
    """The common name of a certificate, or nothing."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The DNS names and IP addresses that a certificate is for."""
    alternative = extension(certificate, x509.SubjectAlternativeName)
    if alternative is None:
        return []
    return [str(name.value) for name in alternative if isinstance(name, x509.DNSName | x509.IPAddress)]


def key_digest(key: PublicKey) -> str:
    """What tells one public key from another: the SHA-256 of it, in hexadecimal digits."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def fits(key: PrivateKeyTypes, certificate: x509.Certificate) -> TypeGuard[PrivateKey]:
    """Whether a key is the one of a certificate, and may sign."""
    return isinstance(key, get_args(PrivateKey)) and key_digest(key.public_key()) == key_digest(
        certificate.public_key()
    )


def signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether a CA has signed a certificate; nothing is said about validity in time."""
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:
        # Which exception depends on the algorithm of either of them.
        return False
    return True


def extension(certificate: x509.Certificate, kind: type[ExtensionT]) -> ExtensionT | None:
    """The extension of a certificate of that type, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def is_from(crl: x509.CertificateRevocationList, ca: x509.Certificate) -> bool:
    """Whether a revocation list is that of a CA."""
    try:
        return crl.issuer == ca.subject and crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    except Exception:
        # A key that cannot sign, or an algorithm that does not fit it.
        return False


def crl_number(crl: x509.CertificateRevocationList) -> int:
    """The number of a revocation list; 0: it has none."""
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def revocations(crl: x509.CertificateRevocationList | None) -> dict[int, datetime]:
    """Serial numbers, and since when they are revoked."""
    return {entry.serial_number: entry.revocation_date_utc for entry in crl or ()}
