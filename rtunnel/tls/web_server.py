"""The server's end of ``wss``: TLS for any browser, with a certificate that is read again when it changes.

Key exchanges are OpenSSL's default. X25519MLKEM768 comes first, and the server asks for it even if a client guessed
another one; classical ones come last, for browsers that have nothing better.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.sockets import address_prefix
from rtunnel.tls.credentials import read_certificates, read_private_key, use_certificate
from rtunnel.tls.explanations import openssl_reason
from rtunnel.tls.identity import expiry_warning
from rtunnel.tls.messages import Untraced
from rtunnel.tls.turns import Turn, Turns
from rtunnel.upkeep.watched_files import WatchedFiles

#: For TLS 1.2: ciphers with forward secrecy that are not known to be weak.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"

_NO_TLS = "it speaks no TLS; write wss:// there"
_REFUSED = "it refuses our certificate"
#: Why a handshake failed, by a part of OpenSSL's reason.
_REASONS = {
    "http request": _NO_TLS,
    "wrong version number": _NO_TLS,
    "packet length too long": _NO_TLS,
    "data length too long": _NO_TLS,
    "unsupported protocol": "it speaks no TLS 1.2 or later",
    "no shared cipher": "it has no cipher in common with this server",
    "no shared signature algorithm": "it takes no signature of the kind of our certificate's key",
    "no suitable signature algorithm": "it takes no signature of the kind of our certificate's key",
    "alert unknown ca": f"{_REFUSED}, as it does not know the CA; --ca-file tells it",
    "alert decrypt error": f"{_REFUSED}, as it is not from the CA of that name that it knows",
    "alert certificate expired": f"{_REFUSED}, as it has expired, or the clock there is wrong",
    "alert bad certificate": f"{_REFUSED}; is it for the name that is in the URL there?",
    "alert certificate unknown": f"{_REFUSED}; is its CA known there, and is it for the name in the URL?",
    "alert unsupported certificate": f"{_REFUSED}, as it is of a kind that it does not know",
    "alert protocol version": "it does not speak the version of TLS that this server chose",
    "alert handshake failure": "it has no cipher, or kind of signature, in common with this server",
}


def explain_web_failure(error: BaseException | None) -> str:
    """Return why a TLS handshake with a client failed, and what to do.

    :param error: an error of OpenSSL, or why the connection was lost.
    """
    reason = openssl_reason(error) if isinstance(error, SSL.Error) else ""
    if not reason:
        return "it closed the connection in the TLS handshake"
    known = next((text for part, text in _REASONS.items() if part in reason), None)
    return known or f"the TLS handshake failed ({reason})"


@dataclass(frozen=True, slots=True)
class WebFiles:
    """A certificate and its key, as read from their files.

    :ivar context: TLS 1.2 and later with this certificate.
    """

    context: SSL.Context
    certificate: x509.Certificate


def load_web_files(cert: Path, key: Path) -> WebFiles:
    """Read a certificate and its key.

    :param cert: PEM file with the certificate, followed by any intermediate certificates.
    :param key: PEM file with its private key.
    :raises ConfigError: they cannot be used; the message names the file and the fix.
    """
    chain = read_certificates(cert, "give the server's certificate with --tls-cert-file")
    private_key = read_private_key(key, "give the certificate's key with --tls-key-file")
    context = web_context()
    use_certificate(context, chain, private_key, cert, key)
    return WebFiles(context, chain[0])


def web_context() -> SSL.Context:
    """Return TLS 1.2 and later for any browser, without a certificate."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return context


@implementer(IOpenSSLServerConnectionCreator)
class WebCredentials(WatchedFiles[WebFiles]):
    """Makes the server's end of each connection, with the certificate that the files hold at the time.

    :raises ConfigError: see :func:`load_web_files`.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        super().__init__((cert, key), lambda: load_web_files(cert, key))

    @property
    def expiry(self) -> str:
        """A warning for the operator if the certificate has expired or soon will; otherwise empty."""
        return expiry_warning(self.now.certificate)

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """See :class:`IOpenSSLServerConnectionCreator`."""
        return SSL.Connection(self.now.context, None)


class _WebConnection(Untraced):
    """A connection whose handshake takes turns with others."""

    factory: WebTlsFactory
    _turn: Turn

    def makeConnection(self, transport: Any) -> None:
        """Begin the handshake."""
        self._turn = Turn(self.factory.turns, address_prefix(transport.getPeer()), False, super().dataReceived)
        self._turn.transport = transport
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of TLS: in the handshake, when it is their turn."""
        if self._handshakeDone:
            super().dataReceived(data)
        else:
            self._turn.received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take note that the connection is gone."""
        self._turn.leave()
        super().connectionLost(reason)


class WebTlsFactory(TLSMemoryBIOFactory):
    """Puts TLS below the protocols of *inner*."""

    protocol = _WebConnection

    def __init__(self, credentials: WebCredentials, inner: IProtocolFactory, clock: Any) -> None:
        super().__init__(credentials, False, inner, clock)
        self.turns = Turns(clock)
