"""Is this the server that was meant? By the names in its certificate, or by the certificate itself.

Any certificate of the same CA is genuine, a client's too; only the name says whose it is (RFC 9525).
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from cryptography import x509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from service_identity.hazmat import DNS_ID

from rtunnel.errors import ConfigError
from rtunnel.pki.certificates import fingerprint, hosts_of
from rtunnel.tls.engine import Judge
from rtunnel.tls.identity import show_subject


def is_ip_address(name: str) -> bool:
    """Whether *name* is an IP address, of either family."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def sni(name: str) -> str:
    """What a client says in SNI: the DNS name that it wants; nothing where it wants an IP address (RFC 6066)."""
    return "" if is_ip_address(name) else name.rstrip(".")


def check_server_name(name: str) -> str:
    """*name*, if a certificate can be for it.

    :raises ConfigError: it is neither a DNS name nor an IP address.
    """
    if not is_ip_address(name):
        try:
            DNS_ID(name.rstrip("."))
        except ValueError:
            raise ConfigError(f"'{name}' is neither a DNS name nor an IP address") from None
    return name


def judge_of(name: str, pins: frozenset[str]) -> Judge:
    """What a client asks of a server's certificate: one of *pins* where there are any, else *name*."""

    # What a certificate says never changes, and each data connection shows the same.
    @lru_cache(maxsize=4)
    def by_pin(certificate: x509.Certificate) -> str | None:
        found = fingerprint(certificate)
        if found in pins:
            return None
        return f"{show_subject(certificate)} has the fingerprint {found}, which is not that of --tls-pin"

    @lru_cache(maxsize=4)
    def by_name(certificate: x509.Certificate) -> str | None:
        why = why_not_for(certificate, name)
        return why and f"{why}; if that is the server which is meant, --tls-server-name or --tls-pin can say so"

    return by_pin if pins else by_name


def why_not_for(certificate: x509.Certificate, name: str) -> str | None:
    """Why *certificate* is not for *name*, a DNS name or an IP address; None: it is."""
    try:
        if is_ip_address(name):
            verify_certificate_ip_address(certificate, name)
        else:
            verify_certificate_hostname(certificate, name.rstrip("."))
    except (VerificationError, CertificateError):
        return f"{show_subject(certificate)} is for {', '.join(hosts_of(certificate)[:5]) or 'no host'}, not for {name}"
    return None
