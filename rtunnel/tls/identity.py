"""Who is at the other end of a link, once TLS has proved it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from weakref import WeakValueDictionary

from cryptography import x509

from rtunnel.pki.certificates import alternative_names, common_names, expires_soon, fingerprint, key_kind
from rtunnel.wire.messages import clean_text


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Peer:
    """The holder of a certificate.

    :ivar name: its common name; where it has none, its first alternative name; by it the operator says who may do what.
    :ivar fingerprint: SHA-256 of the certificate, 64 hexadecimal digits.
    :ivar group: how the keys of the link were exchanged.
    :ivar signature: what the certificate's key signs with.
    """

    name: str
    fingerprint: str
    group: str
    signature: str
    certificate: x509.Certificate

    @classmethod
    def of(cls, certificate: x509.Certificate, group: str) -> Peer:
        """The holder of *certificate*, over a connection whose keys were exchanged by *group*.

        A link and its data connections have one between them, as a certificate takes time to read and room to keep.
        """
        peer = _known.get((certificate, group))
        if peer is None:
            peer = cls(peer_name(certificate), fingerprint(certificate), group, key_kind(certificate), certificate)
            _known[certificate, group] = peer
        return peer


_known: WeakValueDictionary[tuple[x509.Certificate, str], Peer] = WeakValueDictionary()


def peer_name(certificate: x509.Certificate) -> str:
    """What a certificate's holder is called; empty where it does not say, says it twice, or says what cannot be shown.

    Rights hang on it, so nothing is made fit: two certificates never get one name.
    """
    try:
        names = common_names(certificate) or [str(name.value) for name in alternative_names(certificate)][:1]
    except ValueError:
        return ""
    return names[0] if len(names) == 1 and clean_text(names[0]) == names[0] else ""


def show_subject(certificate: x509.Certificate) -> str:
    """A certificate as log lines call it."""
    name = peer_name(certificate)
    return f"the certificate of '{name}'" if name else f"certificate {fingerprint(certificate)[:16]}..."


def show_end(certificate: x509.Certificate) -> str:
    """The day on which a certificate ends."""
    return certificate.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")


def expiry_warning(certificate: x509.Certificate, now: datetime | None = None) -> str:
    """What to say of a certificate that ends soon or has ended; empty where there is time."""
    now = now or datetime.now(UTC)
    if not expires_soon(certificate, now):
        return ""
    left = certificate.not_valid_after_utc - now
    if left < timedelta():
        return f"{show_subject(certificate)} expired on {show_end(certificate)}; renew it (rtunnel pki renew)"
    return f"{show_subject(certificate)} expires in {left.days} days, on {show_end(certificate)}; renew it before that"
