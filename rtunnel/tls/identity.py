"""Who is at the other end of a connection, according to its certificate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509

from rtunnel.pki.certificates import alternative_names, common_names, expires_soon, fingerprint, key_kind
from rtunnel.wire.messages import clean_text


@dataclass(frozen=True, slots=True)
class Peer:
    """The holder of a certificate.

    :ivar name: the name to which the operator gives rights: see :func:`peer_name`.
    :ivar fingerprint: the SHA-256 of the certificate, 64 hexadecimal digits.
    :ivar group: the group of the key exchange, such as ``X25519MLKEM768``.
    :ivar signature: the algorithm of the certificate's key, such as ``ML-DSA-65``.
    :ivar issuers: the CAs of the verified chain, the issuer of the certificate first.
    :ivar valid_until: when the first certificate of the chain expires.
    """

    name: str
    fingerprint: str
    group: str
    signature: str
    certificate: x509.Certificate
    issuers: tuple[x509.Certificate, ...]
    valid_until: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate, group: str, issuers: tuple[x509.Certificate, ...]) -> Peer:
        """Return the holder of *certificate*, over a connection whose key exchange used *group*.

        :param issuers: the rest of the chain, see :attr:`issuers`.
        """
        kind = key_kind(certificate)
        until = min(each.not_valid_after_utc for each in (certificate, *issuers))
        return cls(peer_name(certificate), fingerprint(certificate), group, kind, certificate, _shared(issuers), until)

    @property
    def why_expired(self) -> str:
        """Which certificate of the chain has expired; empty if none has."""
        if datetime.now(UTC) <= self.valid_until:
            return ""
        chain = (self.certificate, *self.issuers)
        return next(f"{show_subject(each)} expired on {show_end(each)}" for each in chain if _is_over(each))


@lru_cache(maxsize=64)
def _shared(issuers: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """Return equal certificates as the same objects, since thousands of links may have the same CAs."""
    return issuers


def _is_over(certificate: x509.Certificate) -> bool:
    return datetime.now(UTC) > certificate.not_valid_after_utc


def peer_name(certificate: x509.Certificate) -> str:
    """Return the common name of a certificate, or its first alternative name if it has no common name.

    Rights depend on the name, so it is never cleaned, which could give two certificates the same name. Instead the
    result is empty if there are two common names, or one with characters that a log cannot show.
    """
    try:
        names = common_names(certificate) or [str(name.value) for name in alternative_names(certificate)][:1]
    except ValueError:
        return ""
    return names[0] if len(names) == 1 and clean_text(names[0]) == names[0] else ""


def show_name(certificate: x509.Certificate) -> str:
    """Return what log lines call the holder of a certificate."""
    name = peer_name(certificate)
    return f"'{name}'" if name else f"{fingerprint(certificate)[:16]}..."


def show_subject(certificate: x509.Certificate) -> str:
    """Return what log lines call a certificate."""
    name = peer_name(certificate)
    return f"the certificate of '{name}'" if name else f"certificate {show_name(certificate)}"


def show_end(certificate: x509.Certificate) -> str:
    """Return the time at which a certificate expires, as text."""
    return certificate.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")


def expiry_warning(certificate: x509.Certificate) -> str:
    """Return a warning if a certificate has expired or soon will; else an empty string."""
    now = datetime.now(UTC)
    if not expires_soon(certificate, now):
        return ""
    left = certificate.not_valid_after_utc - now
    if left < timedelta():
        return f"{show_subject(certificate)} expired on {show_end(certificate)}; renew it (rtunnel pki renew)"
    return f"{show_subject(certificate)} expires in {left.days} days, on {show_end(certificate)}; renew it before that"
