"""What TLS the reverse tunnel allows: version 1.3, a post-quantum key exchange, certificates at both ends.

A peer cannot negotiate any of that away: each context is given only what is allowed, and :class:`TlsEngine
<rtunnel.tls.engine.TlsEngine>` checks the outcome.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509
    from OpenSSL import SSL, crypto

#: Hybrid groups first; then those that the reference programs offer, in their order.
GROUPS = ("X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024", "MLKEM768", "MLKEM512", "MLKEM1024")
#: Signatures that are allowed without ``--tls-allow-classical-certs``; the reference programs know no others.
POST_QUANTUM_SIGNATURES = ("mldsa65", "mldsa44", "mldsa87")
#: The last three are for signatures on certificates only; TLS 1.3 does not allow them in the handshake.
CLASSICAL_SIGNATURES = (
    "ecdsa_secp256r1_sha256",
    "ecdsa_secp384r1_sha384",
    "ecdsa_secp521r1_sha512",
    "ed25519",
    "ed448",
    "rsa_pss_pss_sha256",
    "rsa_pss_pss_sha384",
    "rsa_pss_pss_sha512",
    "rsa_pss_rsae_sha256",
    "rsa_pss_rsae_sha384",
    "rsa_pss_rsae_sha512",
    "rsa_pkcs1_sha256",
    "rsa_pkcs1_sha384",
    "rsa_pkcs1_sha512",
)
CLASSICAL_OPTION = "--tls-allow-classical-certs"

#: The application protocol of TLS-ALPN-01 (RFC 8737).
ACME = b"acme-tls/1"
#: A chain has the certificate of an end, its issuer, and at most two more below the root.
MAX_DEPTH = 3


class Role(Enum):
    """Which end of a link this is."""

    SERVER = "server"
    CLIENT = "client"

    @property
    def other(self) -> Role:
        """The role of the peer."""
        return Role.CLIENT if self is Role.SERVER else Role.SERVER


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The operator's TLS settings.

    :ivar cert: file with our certificate, followed by any intermediate certificates.
    :ivar key: file with its private key.
    :ivar ca: file with the certificates of the CAs that we trust.
    :ivar groups: the allowed groups for key exchange, the preferred one first.
    :ivar allow_classical_certs: whether to accept certificates that a quantum computer can forge.
    :ivar server_name: at the client, the DNS name or IP address that the server's certificate must be for.
    :ivar pins: at the client, fingerprints; the server's certificate must have one of them. If there are any, its name
        does not matter.
    """

    cert: Path
    key: Path
    ca: Path
    groups: tuple[str, ...] = GROUPS
    allow_classical_certs: bool = False
    server_name: str = ""
    pins: frozenset[str] = frozenset()

    @property
    def crl(self) -> Path:
        """The revocation list, beside the CA's certificate. The file need not exist."""
        return self.ca.with_name("ca.crl")


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the operator keeps a certificate, followed by any intermediate ones, and its private key. Both are PEM."""

    certificate: Path
    private_key: Path


def parse_groups(text: str) -> tuple[str, ...]:
    """Return the names of post-quantum groups, separated by commas or colons, in order of preference.

    :raises ConfigError: one of them is not post-quantum, or unknown.
    """
    names = {name.lower(): name for name in GROUPS}
    found: dict[str, None] = {}
    for part in re.split(r"[,:]", text):
        word = part.strip()
        name = names.get(word.lower())
        if name is None:
            hint = suggestion(word, GROUPS) or f"; write one or more of {', '.join(GROUPS)}"
            raise ConfigError(f"'{word}' is not a post-quantum group{hint}")
        found[name] = None
    return tuple(found)


def parse_pins(text: str) -> frozenset[str]:
    """Return the SHA-256 fingerprints of certificates, separated by commas, with or without colons inside.

    :raises ConfigError: one of them is not 64 hexadecimal digits.
    """
    found = set()
    for part in text.split(","):
        pin = re.sub(r"^sha-?256[:=]|[\s:]", "", part.strip().lower())
        if not re.fullmatch("[0-9a-f]{64}", pin):
            raise ConfigError(
                f"'{part.strip()}' is not the SHA-256 fingerprint of a certificate, which has 64 hexadecimal digits; "
                "`openssl x509 -noout -fingerprint -sha256 -in server.crt` and `rtunnel pki show` print it"
            )
        found.add(pin)
    return frozenset(found)


class Verifier(Protocol):
    """The ``app_data`` that each connection with our context must have."""

    def accepts(self, certificate: x509.Certificate, error: int, depth: int) -> bool:
        """Return whether to accept a certificate of the peer's chain. OpenSSL calls it for the root first.

        :param error: what OpenSSL found wrong, one of its ``X509_V_ERR_`` numbers; 0: nothing.
        :param depth: 0 for the peer's own certificate.
        """


def _verify(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, _ok: int) -> bool:
    verifier: Verifier = connection.get_app_data()
    return verifier.accepts(certificate.to_cryptography(), error, depth)


def make_context(groups: tuple[str, ...] = GROUPS, *, allow_classical: bool = False) -> SSL.Context:
    """Return a context for this policy, without certificates.

    :param groups: see :attr:`TlsSettings.groups`.
    :param allow_classical: see :attr:`TlsSettings.allow_classical_certs`.
    :raises ConfigError: the libraries cannot do what the policy demands.
    """
    from OpenSSL import SSL

    from rtunnel.tls import openssl

    openssl.require_post_quantum()
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    # Nobody can resume a session: a ticket is only a number then, and no session is kept under it. So both ends verify
    # whole chains each time.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    context.set_verify_depth(MAX_DEPTH)
    openssl.set_groups(context, groups)
    classical = CLASSICAL_SIGNATURES if allow_classical else ()
    openssl.set_signatures(context, (*POST_QUANTUM_SIGNATURES, *classical))
    openssl.write_whole(context)
    openssl.hold_no_buffers(context)
    return context
