"""Check that a server is the intended one, by the names in its certificate (RFC 9525) or by its fingerprint.

A certificate from a trusted CA is not enough: the CA has issued those of the clients too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from rtunnel.endpoint_strings import ascii_name
from rtunnel.errors import ConfigError
from rtunnel.wire.messages import clean_text

# Settings are checked here in processes that have no TLS, too.
if TYPE_CHECKING:
    from cryptography import x509
    from service_identity.hazmat import CertificatePattern

    from rtunnel.tls.engine import Judge


def is_ip_address(name: str) -> bool:
    """Return whether *name* is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def sni(name: str) -> str:
    """Return what a client sends as SNI: a DNS name, but nothing for an IP address (RFC 6066, section 3)."""
    return "" if is_ip_address(name) else ascii_name(name.rstrip("."))


def check_server_name(name: str) -> str:
    """Return *name* as a certificate has it, an international name in its ASCII form.

    :raises ConfigError: it is neither a DNS name nor an IP address, so no certificate can be issued for it.
    """
    if is_ip_address(name):
        return name
    from service_identity.hazmat import DNS_ID

    try:
        found = ascii_name(name)
        DNS_ID(found.rstrip("."))
    except ValueError:
        raise ConfigError(f"'{name}' is neither a DNS name nor an IP address") from None
    return found


def judge_of(name: str, pins: frozenset[str]) -> Judge:
    """Return a client's check of a server's certificate: it must have one of *pins*, or if there are none, *name*."""

    from rtunnel.pki.certificates import fingerprint
    from rtunnel.tls.identity import show_subject

    def by_pin(certificate: x509.Certificate) -> str | None:
        found = fingerprint(certificate)
        if found in pins:
            return None
        return f"{show_subject(certificate)} has the fingerprint {found}, which is not one of --tls-pin"

    def by_name(certificate: x509.Certificate) -> str | None:
        why = why_not_for(certificate, name)
        return why and f"{why}; if this is the right server, say so with --tls-server-name or --tls-pin"

    return by_pin if pins else by_name


def why_not_for(certificate: x509.Certificate, name: str) -> str | None:
    """Return why *certificate* is not for *name*, a DNS name or an IP address; None if it is."""
    from service_identity import CertificateError, VerificationError
    from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity

    from rtunnel.pki.certificates import hosts_of
    from rtunnel.tls.identity import show_subject

    # A zone (fe80::1%eth0) says which interface leads there; no certificate has one.
    wanted = IPAddress_ID(name.partition("%")[0]) if is_ip_address(name) else DNS_ID(name.rstrip("."))
    try:
        verify_service_identity(list(_patterns(certificate)), [wanted], [])
    except (VerificationError, CertificateError):
        theirs = clean_text(", ".join(hosts_of(certificate)[:5])) or "no host"
        return f"{show_subject(certificate)} is for {theirs}, not for {name}"
    return None


def _patterns(certificate: x509.Certificate) -> Iterator[CertificatePattern]:
    """Yield the names that a certificate is for, without those that are none (an IP address as a DNS name, ``*``)."""
    from cryptography import x509
    from service_identity import CertificateError
    from service_identity.hazmat import DNSPattern, IPAddressPattern

    from rtunnel.pki.certificates import alternative_names

    for name in alternative_names(certificate):
        with suppress(CertificateError):
            if isinstance(name, x509.DNSName):
                yield DNSPattern.from_bytes(name.value.encode())
            elif isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address):  # and not a whole network
                yield IPAddressPattern(name.value)
