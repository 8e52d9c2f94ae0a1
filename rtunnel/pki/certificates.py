"""Read a certificate: its purpose, its names, the algorithm of its key, its issuer, and when it expires.

:class:`Algorithm` lists the algorithms of the keys that we make: ML-DSA (FIPS 204), and classical ones for operators
who already have a CA.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias, TypeGuard, TypeVar, get_args

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
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


#: Warn of a certificate, and let ``rtunnel pki renew`` renew it, when less than this is left.
EXPIRES_SOON = timedelta(days=30)

_ML_DSA = {
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
}
_SLH_DSA = {
    f"2.16.840.1.101.3.4.3.{20 + number}": f"SLH-DSA-{size}"
    for number, size in enumerate(
        f"{digest}-{bits}{speed}" for digest in ("SHA2", "SHAKE") for bits in (128, 192, 256) for speed in "sf"
    )
}
_CLASSICAL = {
    "1.2.840.113549.1.1.1": "RSA",
    "1.2.840.113549.1.1.10": "RSA-PSS",
    "1.2.840.10045.2.1": "ECDSA",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
}


class Algorithm(StrEnum):
    """The algorithm of a key that we make."""

    ML_DSA_44 = "ml-dsa-44"
    ML_DSA_65 = "ml-dsa-65"
    ML_DSA_87 = "ml-dsa-87"
    ECDSA_P256 = "ecdsa-p256"
    ED25519 = "ed25519"
    RSA_3072 = "rsa-3072"


class Kind(StrEnum):
    """The role that a certificate is for.

    A server and a host of the WebRTC tunnel have the same extended key usage. A server has alternative names, under
    which clients dial it. A host has none, as it is found by its ID, the common name.
    """

    CA = "ca"
    SERVER = "server"
    HOST = "host"
    CLIENT = "client"


#: The extended key usage (RFC 5280, section 4.2.1.12) of each role.
PURPOSES = {
    Kind.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
    Kind.HOST: ExtendedKeyUsageOID.SERVER_AUTH,
    Kind.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key."""

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
    """Return the SHA-256 of the certificate, as pins are written: 64 lowercase hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def algorithm_of(certificate: x509.Certificate) -> Algorithm | None:
    """Return the algorithm of a certificate's key, or None if it is not one that we make."""
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


def key_kind(certificate: x509.Certificate) -> str:
    """Return a name for the algorithm of any certificate's key, such as ``ML-DSA-65``."""
    oid = certificate.public_key_algorithm_oid.dotted_string
    known = _ML_DSA | _SLH_DSA | _CLASSICAL
    return known.get(oid) or f"an unknown algorithm ({oid})"


def is_post_quantum(certificate: x509.Certificate) -> bool:
    """Return whether the certificate's key is known to resist quantum computers: ML-DSA (FIPS 204), SLH-DSA (205)."""
    oid = certificate.public_key_algorithm_oid.dotted_string
    return oid in _ML_DSA or oid in _SLH_DSA


def classical_problem(certificate: x509.Certificate) -> str:
    """Return what is wrong with a certificate whose key is not post-quantum, without a subject."""
    is_known = certificate.public_key_algorithm_oid.dotted_string in _CLASSICAL
    why = "which a quantum computer can forge" if is_known else "which is not known to resist quantum computers"
    return f"has a key of {key_kind(certificate)}, {why}"


def has_tls_signature(certificate: x509.Certificate) -> bool:
    """Return whether TLS 1.3 has a signature algorithm for the certificate's key (RFC 8446, section 4.2.3; ML-DSA)."""
    kind = key_kind(certificate)
    if kind != "ECDSA":
        return kind in (*_ML_DSA.values(), *_CLASSICAL.values())
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        # A curve that the library does not know.
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1
    )


def expires_soon(certificate: x509.Certificate, now: datetime | None = None) -> bool:
    """Return whether a certificate has expired, or expires within :data:`EXPIRES_SOON`."""
    return certificate.not_valid_after_utc - (now or datetime.now(UTC)) < EXPIRES_SOON


def may_be(certificate: x509.Certificate, kind: Kind) -> bool:
    """Return whether the extended key usage allows that role, as it does if the certificate has none.

    :raises ValueError: the extensions cannot be read.
    """
    usage = extension(certificate, x509.ExtendedKeyUsage)
    return usage is None or PURPOSES[kind] in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def kind_of(certificate: x509.Certificate) -> Kind | None:
    """Return the role that a certificate names; None if it names none, or several. A server's may be for both ends, and
    has host names or addresses."""
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        return Kind.CA
    usage = extension(certificate, x509.ExtendedKeyUsage)
    purposes = [purpose for purpose in set(PURPOSES.values()) if usage is not None and purpose in usage]
    if purposes == [PURPOSES[Kind.CLIENT]]:
        return Kind.CLIENT
    if len(purposes) != 1 and not (purposes and alternative_names(certificate)):
        return None
    return Kind.SERVER if alternative_names(certificate) else Kind.HOST


def common_names(certificate: x509.Certificate) -> list[str]:
    """Return all common names of a certificate's subject.

    :raises ValueError: the subject cannot be read.
    """
    return [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def common_name(certificate: x509.Certificate) -> str:
    """Return the first common name of a certificate, or an empty string."""
    return next(iter(common_names(certificate)), "")


def alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """Return the subject alternative names of a certificate.

    :raises ValueError: the extensions cannot be read.
    """
    return list(extension(certificate, x509.SubjectAlternativeName) or ())


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names and IP addresses that a certificate is for."""
    names = alternative_names(certificate)
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def key_digest(key: PublicKey) -> str:
    """Return the SHA-256 of a public key, in hexadecimal digits."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def fits(key: PrivateKeyTypes, certificate: x509.Certificate) -> TypeGuard[PrivateKey]:
    """Return whether a key belongs to a certificate, and can sign."""
    return isinstance(key, get_args(PrivateKey)) and key_digest(key.public_key()) == key_digest(
        certificate.public_key()
    )


def signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Return whether a CA has signed a certificate, expired or not."""
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:
        # The type of the exception depends on the algorithms of both.
        return False
    return True


def extension(certificate: x509.Certificate, kind: type[ExtensionT]) -> ExtensionT | None:
    """Return the extension of that type, or None.

    :raises ValueError: the extensions cannot be read.
    """
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from error


def is_from(crl: x509.CertificateRevocationList, ca: x509.Certificate) -> bool:
    """Return whether a CA has issued and signed a revocation list."""
    try:
        return crl.issuer == ca.subject and crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    except Exception:
        # The CA's key cannot sign, or the signature uses another algorithm.
        return False


def crl_number(crl: x509.CertificateRevocationList) -> int:
    """Return the number of a revocation list, or 0 if it has none."""
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def revocations(crl: x509.CertificateRevocationList | None) -> dict[int, datetime]:
    """Return the revoked serial numbers, each with the time of its revocation."""
    return {entry.serial_number: entry.revocation_date_utc for entry in crl or ()}
