"""A certificate authority (RFC 5280): its own certificate, those that it issues, and its revocation list.

No files here. The :class:`~rtunnel.pki.certificates.Kind` of a certificate decides its extensions: a CA may sign
certificates and revocation lists, with no other CA below it; a server or a client may sign handshakes in that role.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, mldsa, rsa
from cryptography.x509.oid import NameOID

from rtunnel.pki.certificates import (
    PURPOSES,
    Algorithm,
    Identity,
    Kind,
    PrivateKey,
    PublicKey,
    algorithm_of,
    extension,
    key_digest,
)

CA_DAYS = 3650
LEAF_DAYS = 825
#: How far a peer's clock may be behind ours before it takes a new certificate for not yet valid.
CLOCK_SKEW = timedelta(minutes=5)
#: The dates of a certificate that is valid for ever.
SINCE_EVER, FOR_EVER = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def make_key(algorithm: Algorithm) -> PrivateKey:
    """Return a new private key."""
    match algorithm:
        case Algorithm.ML_DSA_44:
            return mldsa.MLDSA44PrivateKey.generate()
        case Algorithm.ML_DSA_65:
            return mldsa.MLDSA65PrivateKey.generate()
        case Algorithm.ML_DSA_87:
            return mldsa.MLDSA87PrivateKey.generate()
        case Algorithm.ECDSA_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case Algorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case Algorithm.RSA_3072:
            return rsa.generate_private_key(public_exponent=65537, key_size=3072)


def make_ca(
    name: str = "",
    *,
    algorithm: Algorithm = Algorithm.ML_DSA_65,
    days: int = CA_DAYS,
    now: datetime | None = None,
) -> Identity:
    """Return a new CA, which signs its own certificate.

    :param name: its common name; empty: a unique one.
    """
    key = make_key(algorithm)
    start, end = _validity(days, now)
    subject = _common_name(name or f"rtunnel CA {key_digest(key.public_key())[:16]}")
    builder = (
        _builder(subject, subject, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
    )
    return Identity(builder.sign(key, _hash_for(key)), key)


def renew_ca(ca: Identity, *, days: int = CA_DAYS, now: datetime | None = None) -> Identity:
    """Return the CA with a new certificate. Its name and key stay, so certificates that it issued stay valid."""
    start, end = _validity(days, now)
    old = ca.certificate
    builder = _builder(old.subject, old.subject, ca.key.public_key(), start, end, like=old)
    for one in old.extensions:
        if not isinstance(one.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(one.value, one.critical)
    return Identity(builder.sign(ca.key, _hash_for(ca.key)), ca.key)


def issue(
    ca: Identity,
    kind: Kind,
    name: str,
    *,
    hosts: Iterable[str] = (),
    algorithm: Algorithm | None = None,
    days: int = LEAF_DAYS,
    now: datetime | None = None,
) -> Identity:
    """Return a new key, and a certificate for it that the CA signs. It expires with the CA at the latest.

    :param kind: server, host or client.
    :param name: the common name; a client's rights depend on it, and clients want it of a host.
    :param hosts: the DNS names and IP addresses of a server, already checked.
    :param algorithm: the key's algorithm; None: that of the CA.
    """
    key = make_key(algorithm or algorithm_of(ca.certificate) or Algorithm.ML_DSA_65)
    start, end = _validity(days, now)
    end = min(end, ca.certificate.not_valid_after_utc)
    issuer = ca.certificate
    alternative = [_general_name(host) for host in hosts]
    # Servers of a cluster connect to each other.
    purposes = [PURPOSES[kind], *([PURPOSES[Kind.CLIENT]] if kind is Kind.SERVER else [])]
    builder = (
        _builder(_common_name(name), issuer.subject, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(_authority_key(issuer), critical=False)
    )
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    return Identity(builder.sign(ca.key, _hash_for(ca.key)), key)


def make_self_signed(name: str, *extensions: x509.ExtensionType) -> Identity:
    """Return a new ML-DSA-65 key, and a certificate for either end that no CA has signed.

    Who trusts it knows its fingerprint, so its dates say nothing: it is valid for ever (RFC 5280, section 4.1.2.5), and
    also for a machine whose clock is not set yet.

    :param name: the common name.
    :param extensions: further ones, none of them critical.
    """
    key = make_key(Algorithm.ML_DSA_65)
    subject = _common_name(name)
    builder = (
        _builder(subject, subject, key.public_key(), SINCE_EVER, FOR_EVER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([PURPOSES[Kind.HOST], PURPOSES[Kind.CLIENT]]), critical=False)
    )
    for each in extensions:
        builder = builder.add_extension(each, critical=False)
    return Identity(builder.sign(key, None), key)


def make_crl(
    ca: Identity, revoked: Mapping[int, datetime] | None = None, *, number: int = 1, now: datetime | None = None
) -> x509.CertificateRevocationList:
    """Return a revocation list.

    It is valid as long as the CA, so that a server never refuses everybody because the list was not signed again.

    :param revoked: serial numbers, each with the time of its revocation.
    :param number: must be higher than that of every earlier list.
    """
    start, _ = _validity(0, now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(start)
        .next_update(max(ca.certificate.not_valid_after_utc, start + timedelta(seconds=1)))
        .add_extension(_authority_key(ca.certificate), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, when in sorted((revoked or {}).items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(ca.key, _hash_for(ca.key))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    start: datetime,
    end: datetime,
    like: x509.Certificate | None = None,
) -> x509.CertificateBuilder:
    identifier = extension(like, x509.SubjectKeyIdentifier) if like is not None else None
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(identifier or x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _hash_for(key: PrivateKey) -> hashes.SHA256 | None:
    """Return the hash to sign with; None for newer algorithms, which include one."""
    return (
        hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey) else None
    )


def _validity(days: int, now: datetime | None) -> tuple[datetime, datetime]:
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    return now - CLOCK_SKEW, now + timedelta(days=days)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*allowed: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in allowed for name in names})


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = extension(issuer, x509.SubjectKeyIdentifier)
    if identifier is None:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
