"""Check that a server is the intended one, by the names in its certificate (RFC 9525) or by its fingerprint.

A certificate from a trusted CA is not enough: the CA has issued those of the clients too.
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
    """Return whether *name* is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def sni(name: str) -> str:
    """Return what a client sends as SNI: a DNS name, but nothing for an IP address (RFC 6066, section 3)."""
    return "" if is_ip_address(name) else name.rstrip(".")


def check_server_name(name: str) -> str:
    """Return *name* if a certificate can be issued for it.

    :raises ConfigError: it is neither a DNS name nor an IP address.
    """
    if not is_ip_address(name):
        try:
            DNS_ID(name.rstrip("."))
        except ValueError:
            raise ConfigError(f"'{name}' is neither a DNS name nor an IP address") from None
    return name


def judge_of(name: str, pins: frozenset[str]) -> Judge:
    """Return a client's check of a server's certificate: it must have one of *pins*, or if there are none, *name*."""

    # Every data connection presents the same certificate.
    @lru_cache(maxsize=4)
    def by_pin(certificate: x509.Certificate) -> str | None:
        found = fingerprint(certificate)
        if found in pins:
            return None
        return f"{show_subject(certificate)} has the fingerprint {found}, which is not one of --tls-pin"

    @lru_cache(maxsize=4)
    def by_name(certificate: x509.Certificate) -> str | None:
        why = why_not_for(certificate, name)
        return why and f"{why}; if this is the right server, say so with --tls-server-name or --tls-pin"

    return by_pin if pins else by_name


def why_not_for(certificate: x509.Certificate, name: str) -> str | None:
    """Return why *certificate* is not for *name*, a DNS name or an IP address; None if it is."""
    try:
        if is_ip_address(name):
            verify_certificate_ip_address(certificate, name)
        else:
            verify_certificate_hostname(certificate, name.rstrip("."))
    except (VerificationError, CertificateError):
        return f"{show_subject(certificate)} is for {', '.join(hosts_of(certificate)[:5]) or 'no host'}, not for {name}"
    return None
