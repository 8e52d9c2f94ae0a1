"""A bundle: one file with everything that another machine needs.

    # comments for people; rtunnel reads one of them: "# servers: NAME..."
    CERTIFICATE of the CA, X509 CRL of the CA, CERTIFICATE, PRIVATE KEY; each in PEM, in any order

A file put together by hand works too. All of it is checked before any of it is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rtunnel.errors import PkiError
from rtunnel.pki import names, pem
from rtunnel.pki.certificates import Identity, Kind, common_name, fits, is_from, kind_of, revocations, signed_by
from rtunnel.pki.store import parse_certificate, parse_crl, parse_key

_SERVERS = re.compile(rb"^# servers: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The content of a bundle.

    :ivar servers: the names by which clients reach the server; only a hint, which is not signed.
    """

    ca: x509.Certificate
    crl: x509.CertificateRevocationList | None
    identity: Identity
    servers: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """Server, host or client; client if the certificate does not say."""
        kind = kind_of(self.identity.certificate)
        return kind if kind in (Kind.SERVER, Kind.HOST) else Kind.CLIENT

    @property
    def name(self) -> str:
        """The common name of the certificate, safe to print."""
        return names.shown(common_name(self.identity.certificate))


def write(bundle: Bundle) -> bytes:
    """Return the content of the file."""
    until = f"{bundle.identity.certificate.not_valid_after_utc:%Y-%m-%d}"
    head = [
        f"# rtunnel: the {bundle.kind} certificate '{bundle.name}', valid until {until}, with its PRIVATE KEY.",
        "# Anybody who has this file can pose as that peer: carry it over a secure channel, import it, and delete it.",
        f"# On the {bundle.kind}'s machine: rtunnel pki import FILE",
    ]
    if bundle.servers:
        head.append(f"# servers: {' '.join(bundle.servers)}")
    blocks = [bundle.ca.public_bytes(Encoding.PEM)]
    if bundle.crl is not None:
        blocks.append(bundle.crl.public_bytes(Encoding.PEM))
    return b"".join(
        ["\n".join(head).encode(), b"\n", *blocks, bundle.identity.certificate_pem, bundle.identity.key_pem]
    )


def parse(content: bytes, source: str, now: datetime) -> Bundle:
    """Read a bundle, and check that its parts belong together and can be used.

    :param source: what to call the file in errors.
    :raises PkiError: a part is missing, damaged, revoked or expired, or does not belong to the others.
    """
    certificates, keys, lists = [], [], []
    for label, block in pem.blocks(content):
        if label == pem.CERTIFICATE:
            certificates.append(parse_certificate(block, source))
        elif label == pem.CRL:
            lists.append(parse_crl(block, source))
        elif label.endswith(pem.PRIVATE_KEY):
            keys.append(parse_key(block, source))
        else:
            raise PkiError(f"{source} is not a bundle: it contains a {label}")
    if content.count(b"-----BEGIN ") != len(certificates) + len(keys) + len(lists):
        raise PkiError(f"{source} is damaged: it ends too early, or was changed on its way; copy it again")
    authorities = [one for one in certificates if kind_of(one) is Kind.CA]
    own = [one for one in certificates if kind_of(one) is not Kind.CA]
    if (len(authorities), len(own), len(keys)) != (1, 1, 1) or len(lists) > 1:
        raise PkiError(
            f"{source} is not a bundle, which has a CA, one certificate and its key; make one with 'rtunnel pki bundle'"
        )
    ca, certificate, key = authorities[0], own[0], keys[0]
    if not fits(key, certificate):
        raise PkiError(f"{source} is damaged: its key does not belong to its certificate")
    if not signed_by(certificate, ca):
        raise PkiError(f"{source} is damaged: its certificate is not from its CA")
    if not signed_by(ca, ca):
        raise PkiError(f"{source} is damaged: its CA is not self-signed")
    if lists and not is_from(lists[0], ca):
        raise PkiError(f"{source} is damaged: its revocation list is not from its CA")
    crl = lists[0] if lists else None
    name = names.shown(common_name(certificate))
    if certificate.serial_number in revocations(crl):
        raise PkiError(f"the certificate '{name}' in {source} is revoked; ask for a new one")
    for what, one in (("certificate", certificate), ("CA", ca)):
        if one.not_valid_after_utc <= now:
            until = f"{one.not_valid_after_utc:%Y-%m-%d}"
            raise PkiError(
                f"the {what} '{names.shown(common_name(one))}' in {source} expired on {until}; ask for a new bundle"
            )
    return Bundle(ca, crl, Identity(certificate, key), _servers(content))


def _servers(content: bytes) -> tuple[str, ...]:
    line = _SERVERS.search(content)
    try:
        return tuple(names.hosts([line[1].decode()])) if line else ()
    except (PkiError, UnicodeDecodeError):
        # It is only a hint.
        return ()
