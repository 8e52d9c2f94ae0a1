"""A certificate authority in a few functions: its own certificate, those that it issues, and its revocation list.

Nothing here touches a file. What a certificate is for is said by its :class:`~rtunnel.pki.certificates.Kind`, and
the certificate says it in the words of X.509: a CA may sign certificates and lists, with no other CA below it; a server
or a client may sign a handshake in that role.
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
#: How far a clock may be behind ours without taking a fresh certificate for one that is not valid yet.
CLOCK_SKEW = timedelta(minutes=5)


def make_key(algorithm: Algorithm) -> PrivateKey:
    """A new private key."""
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
    """A CA that signs itself.

    :param name: its common name; empty: one that no other CA has.
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
    """The same CA for longer: its name, its key and so all that it issued stay."""
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
    """A new key, and a certificate of the CA for it. It ends when the CA does, if not before.

    :param kind: server or client.
    :param name: common name; for a client, who it is.
    :param hosts: DNS names and IP addresses of a server, checked already.
    :param algorithm: of the key; None: that of the CA.
    """
    key = make_key(algorithm or algorithm_of(ca.certificate) or Algorithm.ML_DSA_65)
    start, end = _validity(days, now)
    end = min(end, ca.certificate.not_valid_after_utc)
    issuer = ca.certificate
    alternative = [_general_name(host) for host in hosts]
    builder = (
        _builder(_common_name(name), issuer.subject, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([PURPOSES[kind]]), critical=False)
        .add_extension(_authority_key(issuer), critical=False)
    )
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    return Identity(builder.sign(ca.key, _hash_for(ca.key)), key)


def make_crl(
    ca: Identity, revoked: Mapping[int, datetime] | None = None, *, number: int = 1, now: datetime | None = None
) -> x509.CertificateRevocationList:
    """A revocation list.

    It is valid as long as the CA: a server must not turn everybody away because nobody signed the same list again.

    :param revoked: serial numbers, and since when.
    :param number: higher than that of any list before.
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
    """What a signature is made over; the newer algorithms have it built in."""
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
