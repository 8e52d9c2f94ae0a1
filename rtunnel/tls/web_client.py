"""TLS of the web, for ``wss``: what any browser would take, and a certificate of the server's only.

Unlike the reverse tunnel's links, whose policy is in :mod:`rtunnel.tls.policy`: here a public CA may vouch for
the server, TLS 1.2 is allowed, and clients show no certificate. OpenSSL's own order of key exchanges stands, which
begins with a post-quantum hybrid.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from rtunnel.errors import ConfigError
from rtunnel.tls.explanations import explain_certificate, reason_of
from rtunnel.tls.server_names import sni, why_not_for
from rtunnel.wire.messages import clean_text

#: What a client is told to look at when it does not trust a server.
CA_OPTION = "--ca-file"

_SPEAKS_NO_TLS = ("wrong version number", "packet length too long", "http request")


def client_context(ca_file: Path | None) -> SSL.Context:
    """What a client needs to know who vouches for a server. For whom, a :class:`ServerCheck` looks at.

    :param ca_file: PEM file of the CAs that are trusted; None: those of the system.
    :raises ConfigError: there is no such file, or no certificate in it.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_verify(SSL.VERIFY_PEER)
    if ca_file is None:
        context.set_default_verify_paths()
        return context
    try:
        # OpenSSL would say neither that a file is not there nor that it may not be read.
        ca_file.open("rb").close()
        context.load_verify_locations(str(ca_file))
    except OSError as error:
        raise ConfigError(f"cannot read {ca_file}: {error.strerror} (see {CA_OPTION})") from None
    except SSL.Error:
        raise ConfigError(f"{ca_file} has no certificate of a CA in PEM (see {CA_OPTION})") from None
    return context


@implementer(IOpenSSLClientConnectionCreator)
class ServerCheck:
    """TLS of one connection to a server: is it the one that was meant?

    :param host: the DNS name or IP address that its certificate must be for.
    :param ca_file: see :func:`client_context`.
    :raises ConfigError: see :func:`client_context`.
    :ivar refusal: why its certificate is not accepted; empty while it is.
    """

    def __init__(self, host: str, ca_file: Path | None) -> None:
        self._host = host
        self._has_own_ca = ca_file is not None
        self._context = client_context(ca_file)
        self._context.set_verify(SSL.VERIFY_PEER, self._verify)
        self.refusal = ""

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """See :class:`IOpenSSLClientConnectionCreator`."""
        connection = SSL.Connection(self._context, None)
        if name := sni(self._host):
            connection.set_tlsext_host_name(name.encode("idna"))
        return connection

    def _verify(self, _link: SSL.Connection, certificate: crypto.X509, error: int, depth: int, _ok: int) -> bool:
        # OpenSSL asks from the root to the server's own.
        try:
            why = self._why_not(certificate.to_cryptography(), error, depth)
        except Exception as problem:
            # Whatever is in it, the answer is no.
            why = f"it cannot be read: {clean_text(str(problem))}"
        if why:
            self.refusal = f"its certificate is refused: {why}"
        return not why

    def _why_not(self, certificate: x509.Certificate, error: int, depth: int) -> str | None:
        if error:
            trusted = f"a CA that this system trusts; {CA_OPTION} names a file with another"
            return explain_certificate(certificate, error, f"a CA of {CA_OPTION}" if self._has_own_ca else trusted)
        if depth:
            return None
        why = why_not_for(certificate, self._host)
        return why and f"{why}; write the name that it is for in the URL"

    def explain(self, error: SSL.Error) -> str:
        """Why TLS has failed, as what the server did or is."""
        reason = reason_of(error)
        if self.refusal or not reason:
            return self.refusal or "it closed the connection in the TLS handshake"
        if reason in _SPEAKS_NO_TLS:
            return "it speaks no TLS; is it ws:// that is meant?"
        return f"TLS has failed: {reason}"
