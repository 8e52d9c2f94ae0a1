"""What the tests of this folder share."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path

from cryptography import x509

from rtunnel.access.identities import Identity, ephemeral_identity
from rtunnel.access.trust import PeerIdentity
from rtunnel.pki import authority, certificates
from rtunnel.pki.certificates import Algorithm, Kind
from rtunnel.pki.files import PUBLIC, Draft, publish

#: A user who runs nothing here.
SOMEBODY = 54321


@cache
def identity(number: int = 0) -> Identity:
    """One of a few identities; each costs a key."""
    return ephemeral_identity()


def peer(which: Identity | x509.Certificate, host_id: str = "", *issuers: x509.Certificate) -> PeerIdentity:
    """What its handshake would prove."""
    certificate = which if isinstance(which, x509.Certificate) else which.certificate
    return PeerIdentity(certificate, certificates.fingerprint(certificate), issuers, host_id)


class Organisation:
    """A CA, in a file."""

    def __init__(self, directory: Path, algorithm: Algorithm = Algorithm.ML_DSA_65) -> None:
        self.ca = authority.make_ca(algorithm=algorithm)
        self.file = directory / "ca.crt"
        self._crl = directory / "ca.crl"
        self._revoked: dict[int, datetime] = {}
        publish([Draft(self.file, self.ca.certificate_pem, PUBLIC)])

    def issue(
        self, name: str, kind: Kind = Kind.CLIENT, *hosts: str, days: int = 10, now: datetime | None = None
    ) -> certificates.Identity:
        return authority.issue(self.ca, kind, name, hosts=hosts, days=days, now=now)

    def revoke(self, certificate: x509.Certificate) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding

        self._revoked[certificate.serial_number] = certificate.not_valid_before_utc
        crl = authority.make_crl(self.ca, self._revoked, number=len(self._revoked) + 1)
        publish([Draft(self._crl, crl.public_bytes(Encoding.PEM), PUBLIC, replaces=True)])
