"""The server's end of ``wss`` and ``https``: TLS for any browser, and a certificate that is read again when it changes.

Key exchanges are OpenSSL's default. X25519MLKEM768 comes first, and the server asks for it even if a client guessed
another one; classical ones come last, for browsers that have nothing better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IProtocolFactory
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import ConfigError
from rtunnel.relay.sockets import address_prefix
from rtunnel.tls.credentials import read_certificates, read_private_key, use_certificate
from rtunnel.tls.explanations import openssl_reason
from rtunnel.tls.identity import expiry_warning
from rtunnel.tls.messages import limit_messages
from rtunnel.tls.openssl import Untraced
from rtunnel.tls.policy import MAX_DEPTH
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
    :ivar authorities: CAs, one of which must have issued the certificate of a client; empty: clients need none.
    """

    context: SSL.Context
    certificate: x509.Certificate
    authorities: tuple[x509.Certificate, ...] = ()


def load_web_files(cert: Path, key: Path, ca: Path | None = None, option: str = "--tls-{}-file") -> WebFiles:
    """Read a certificate and its key.

    :param cert: PEM file with the certificate, followed by any intermediate certificates.
    :param key: PEM file with its private key.
    :param ca: PEM file with the CAs, one of which must have issued the certificate of a client; None: none is needed.
    :param option: the options with these files, for errors.
    :raises ConfigError: they cannot be used; the message names the file and the fix.
    """
    chain = read_certificates(cert, f"give the server's certificate with {option.format('cert')}")
    private_key = read_private_key(key, f"give the certificate's key with {option.format('key')}")
    context = web_context()
    use_certificate(context, chain, private_key, cert, key)
    authorities: tuple[x509.Certificate, ...] = ()
    if ca is not None:
        authorities = tuple(read_certificates(ca, f"give the CA of the clients with {option.format('ca')}"))
        _demand_certificates(context, ca, authorities)
    return WebFiles(context, chain[0], authorities)


def _demand_certificates(context: SSL.Context, path: Path, authorities: Sequence[x509.Certificate]) -> None:
    """Let in only clients with a certificate of one of *authorities*.

    :raises ConfigError: one of them cannot be used.
    """
    store = context.get_cert_store()
    assert store is not None
    try:
        for ca in authorities:
            store.add_cert(crypto.X509.from_cryptography(ca))
            # Browsers offer only certificates of these.
            context.add_client_ca(ca)
    except (crypto.Error, SSL.Error) as error:
        raise ConfigError(f"{path} holds a CA that cannot be used: {openssl_reason(error)}") from None
    if any(ca.issuer != ca.subject for ca in authorities):
        # An intermediate CA of the file may be the end of a chain.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    # Nobody can resume a session, so that whole chains are verified each time.
    context.set_options(SSL.OP_NO_TICKET)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    context.set_verify_depth(MAX_DEPTH)


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

    See :func:`load_web_files` for the parameters.

    :raises ConfigError: see :func:`load_web_files`.
    """

    def __init__(self, cert: Path, key: Path, ca: Path | None = None, option: str = "--tls-{}-file") -> None:
        paths = (cert, key) if ca is None else (cert, key, ca)
        super().__init__(paths, lambda: load_web_files(cert, key, ca, option))

    def warn_of_expiry(self, log: Logger) -> None:
        """Log it if the certificate has expired or soon will."""
        if warning := expiry_warning(self.now.certificate):
            log.warn("{warning}", warning=warning)

    def look(self, log: Logger, what: str) -> None:
        """Read the files again if they have changed, and log it. If they cannot be used, those from before stay in use.

        :param what: the files.
        """
        try:
            if self.refresh():
                log.info("{what} have changed; new connections use them", what=what)
                self.warn_of_expiry(log)
        except ConfigError as error:
            log.warn("{what} cannot be used, and those from before stay in use: {why}", what=what, why=error)

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
        limit_messages(self)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of TLS: in the handshake, when it is their turn."""
        if self._handshakeDone:
            super().dataReceived(data)
        else:
            self._turn.received(data)

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        if reason is not None and not self._handshakeDone and isinstance(reason.value, SSL.Error):
            self.factory.failed(self.transport, reason.value)
        super()._tlsShutdownFinished(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take note that the connection is gone."""
        self._turn.leave()
        super().connectionLost(reason)


class WebTlsFactory(TLSMemoryBIOFactory):
    """Puts TLS below the protocols of *inner*.

    :param failed: is told the transport below, and the error of OpenSSL, when a handshake fails.
    """

    protocol = _WebConnection

    def __init__(
        self,
        credentials: WebCredentials,
        inner: IProtocolFactory,
        clock: Any,
        failed: Callable[[Any, SSL.Error], None] = lambda _transport, _error: None,
    ) -> None:
        super().__init__(credentials, False, inner, clock)
        self.turns = Turns(clock)
        self.failed = failed
