"""What TLS may be here: version 1.3, a post-quantum key exchange, certificates at both ends.

Nothing of it is negotiable by a peer: each context is given only what is allowed, and :class:`TlsEngine
<rtunnel.tls.engine.TlsEngine>` looks once more at what came of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from cryptography import x509
from OpenSSL import SSL, crypto

from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError
from rtunnel.tls import openssl
from rtunnel.tls.sessions import SESSION_LIFETIME

#: Hybrids first; then what the reference programs offer.
GROUPS = ("X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024", "MLKEM768", "MLKEM1024", "MLKEM512")
#: By whom signatures may be made without ``--tls-allow-classical-certs``; the reference programs know no others.
POST_QUANTUM_SIGNATURES = ("mldsa65", "mldsa44", "mldsa87")
#: The last three are for signatures on certificates only: TLS 1.3 knows no handshake by them.
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

#: A certificate, its issuer, and two more between that and the root.
MAX_DEPTH = 3


class Role(Enum):
    """Which end of a link this is."""

    SERVER = "server"
    CLIENT = "client"

    @property
    def other(self) -> Role:
        """The end over there."""
        return Role.CLIENT if self is Role.SERVER else Role.SERVER


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What the operator decided about TLS.

    :ivar cert: file with our certificate, and those between it and its root, if any.
    :ivar key: file with its private key.
    :ivar ca: file with the certificates of those who may vouch for the other end.
    :ivar groups: key exchanges that are offered and taken, the best first.
    :ivar allow_classical_certs: whether certificates that a quantum computer can forge are taken too.
    :ivar server_name: at the client: the DNS name or IP address that the server's certificate must be for.
    :ivar pins: at the client: fingerprints of which the server's certificate must have one; then its name is not looked
        at.
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
        """The revocation list beside the CA's certificate; it need not be there."""
        return self.ca.with_name("ca.crl")


def parse_groups(text: str) -> tuple[str, ...]:
    """Names of post-quantum groups, between commas or colons, in the order of preference.

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
    """SHA-256 fingerprints of certificates, between commas, with or without colons inside.

    :raises ConfigError: one of them is not 64 hexadecimal digits.
    """
    found = set()
    for part in text.split(","):
        pin = re.sub(r"^sha-?256[:=]|[\s:]", "", part.strip().lower())
        if not re.fullmatch("[0-9a-f]{64}", pin):
            raise ConfigError(
                f"'{part.strip()}' is not the SHA-256 fingerprint of a certificate, which has 64 hexadecimal digits; "
                "`openssl x509 -noout -fingerprint -sha256 -in server.crt` and `rtunnel pki show` tell it"
            )
        found.add(pin)
    return frozenset(found)


class Verifier(Protocol):
    """What a connection of such a context must have as its ``app_data``."""

    def accepts(self, certificate: x509.Certificate, error: int, depth: int) -> bool:
        """Whether a certificate of the other end's chain will do. OpenSSL asks from the root to the end's own.

        :param error: what OpenSSL found wrong, one of its ``X509_V_ERR_`` numbers; 0: nothing.
        :param depth: 0 for the end's own certificate.
        """


def _verify(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, _ok: int) -> bool:
    verifier: Verifier = connection.get_app_data()
    return verifier.accepts(certificate.to_cryptography(), error, depth)


def make_context(settings: TlsSettings) -> SSL.Context:
    """A context that keeps to the policy, still without certificates.

    :raises ConfigError: the libraries cannot.
    """
    openssl.require_post_quantum()
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    # The server's part of a session is in the ticket, so that clients cost it no memory. OpenSSL makes the key to the
    # tickets with the context. Without an id, who asks to resume would be refused, where clients have certificates.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"rtunnel")
    context.set_timeout(SESSION_LIFETIME)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    context.set_verify_depth(MAX_DEPTH)
    openssl.set_groups(context, settings.groups)
    classical = CLASSICAL_SIGNATURES if settings.allow_classical_certs else ()
    openssl.set_signatures(context, (*POST_QUANTUM_SIGNATURES, *classical))
    openssl.write_whole(context)
    openssl.hold_no_buffers(context)
    return context
