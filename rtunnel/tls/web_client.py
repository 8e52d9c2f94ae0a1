"""The client's end of ``wss``: TLS that accepts any server that a browser would accept.

The policy of the reverse tunnel's links (:mod:`rtunnel.tls.policy`) does not apply: a public CA may vouch for the
server, TLS 1.2 is allowed, and clients present no certificate. Key exchanges are OpenSSL's default, a post-quantum
hybrid first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IProtocolFactory, IStreamClientEndpoint
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from zope.interface import implementer

from rtunnel.errors import ConfigError
from rtunnel.tls.explanations import explain_certificate, openssl_reason
from rtunnel.tls.openssl import Untraced
from rtunnel.tls.server_names import sni, why_not_for
from rtunnel.trusted_files import read_trusted
from rtunnel.wire.messages import clean_text

#: The option to name when a server is not trusted.
CA_OPTION = "--ca-file"

_SPEAKS_NO_TLS = ("wrong version number", "packet length too long", "http request")


def client_context(ca_file: Path | None, option: str = CA_OPTION) -> SSL.Context:
    """Return a context that trusts these CAs. It does not check the name of the server.

    :param ca_file: PEM file with the CAs to trust; None: those of the system.
    :param option: what names that file.
    :raises ConfigError: the file does not exist, has no certificate, or other users can write it.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_verify(SSL.VERIFY_PEER)
    if ca_file is None:
        context.set_default_verify_paths()
        return context
    try:
        # OpenSSL would not say whether the file is missing or cannot be read.
        read_trusted(ca_file)
        context.load_verify_locations(str(ca_file))
    except OSError as error:
        raise ConfigError(f"cannot read {ca_file}: {error.strerror} (see {option})") from None
    except SSL.Error:
        raise ConfigError(f"{ca_file} has no certificate of a CA in PEM (see {option})") from None
    return context


class _WebConnection(Untraced, BufferingTLSTransport):
    pass


@implementer(IOpenSSLClientConnectionCreator)
class ServerCheck:
    """TLS of one connection to a server, which checks that it is the intended server.

    :param host: the DNS name or IP address that its certificate must be for.
    :param ca_file: see :func:`client_context`.
    :param option: what names that file.
    :param plain: how the URL of a server without TLS begins.
    :raises ConfigError: see :func:`client_context`.
    :ivar refusal: why the server's certificate was refused; empty if it was not.
    """

    def __init__(self, host: str, ca_file: Path | None, option: str = CA_OPTION, plain: str = "ws://") -> None:
        self._host = host
        self._has_own_ca = ca_file is not None
        self._option = option
        self._plain = plain
        self._context = client_context(ca_file, option)
        self._context.set_verify(SSL.VERIFY_PEER, self._verify)
        self.refusal = ""

    async def connect(self, endpoint: IStreamClientEndpoint, factory: IProtocolFactory) -> Any:
        """Connect, once. Return the protocol from *factory*, which is connected; the handshake has only begun.

        The failures are the endpoint's.
        """
        secured = TLSMemoryBIOFactory(self, True, factory)
        secured.protocol = _WebConnection
        connection: Any
        try:
            connection = await endpoint.connect(secured)
        finally:
            # A megabyte with the CAs of a system. Twisted and pyOpenSSL have this object in reference cycles.
            del self._context
        return connection.wrappedProtocol

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """See :class:`IOpenSSLClientConnectionCreator`."""
        connection = SSL.Connection(self._context, None)
        if name := sni(self._host):
            connection.set_tlsext_host_name(name.encode("idna"))
        return connection

    def _verify(self, _link: SSL.Connection, certificate: crypto.X509, error: int, depth: int, _ok: int) -> bool:
        # OpenSSL calls this for the root first, and for the server's own certificate last.
        try:
            why = self._why_not(certificate.to_cryptography(), error, depth)
        except Exception as problem:
            # Refuse a certificate that cannot be read.
            why = f"it cannot be read: {clean_text(str(problem))}"
        if why:
            self.refusal = f"its certificate is refused: {why}"
        return not why

    def _why_not(self, certificate: x509.Certificate, error: int, depth: int) -> str | None:
        if error:
            trusted = f"a CA that this system trusts ({self._option} names a file with another)"
            return explain_certificate(certificate, error, f"a CA of {self._option}" if self._has_own_ca else trusted)
        if depth:
            return None
        why = why_not_for(certificate, self._host)
        return why and f"{why}; write the name that it is for in the URL"

    def explain(self, error: SSL.Error) -> str:
        """Return why TLS failed, as a sentence about the server."""
        reason = openssl_reason(error)
        if self.refusal or not reason:
            return self.refusal or "it closed the connection in the TLS handshake"
        if reason in _SPEAKS_NO_TLS:
            return f"it speaks no TLS; did you mean {self._plain}?"
        return f"TLS has failed: {reason}"
