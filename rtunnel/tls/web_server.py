"""The server's end of ``wss``: TLS as any browser speaks it, from a certificate that is read again when it changes.

OpenSSL's own order of key exchanges stands. It begins with X25519MLKEM768, which a server asks for even where a client
guesses another one first, and ends with classical ones, for browsers that have nothing better.
"""

from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from rtunnel.errors import ConfigError
from rtunnel.tls.credentials import read_certificates, read_private_key, state_of_file
from rtunnel.tls.identity import expiry_warning
from rtunnel.tls.openssl import use_private_key

#: Of TLS 1.2: what protects recorded sessions when the key is stolen later, and is not known to be weak.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"


def server_context(cert: Path, key: Path) -> SSL.Context:
    """TLS 1.2 and later with this certificate.

    :param cert: PEM file with the certificate, and those between it and its root.
    :param key: PEM file with its private key.
    :raises ConfigError: they cannot be used; the message names the file and the fix.
    """
    chain = read_certificates(cert, "give the server's certificate with --tls-cert-file")
    private_key = read_private_key(key, "give the certificate's key with --tls-key-file")
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    try:
        context.use_certificate(chain[0])
        for between in chain[1:]:
            context.add_extra_chain_cert(between)
        use_private_key(context, private_key)
        context.check_privatekey()
    except (SSL.Error, crypto.Error):
        raise ConfigError(f"{key} is not the key of {cert}; give the two that belong together") from None
    return context


@implementer(IOpenSSLServerConnectionCreator)
class WebCredentials:
    """Makes the server's end of each connection.

    :raises ConfigError: see :func:`server_context`.
    :ivar expiry: what to say of a certificate that ends soon or has ended; empty where there is time.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self._seen = self._state()
        self._broken = False
        self._load()

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        """See :class:`IOpenSSLServerConnectionCreator`."""
        return SSL.Connection(self._context, None)

    def refresh(self) -> tuple[bool, str]:
        """Look whether the files have changed, and read them again.

        :returns: whether others are in use now; and why they cannot be used, once, when that was so for two looks.
        """
        state = self._state()
        if state == self._seen and not self._broken:
            return False, ""
        is_news, self._seen = state != self._seen, state
        try:
            self._load()
        except ConfigError as error:
            # Certificate and key are two files: between the two writes they do not fit, which is no news.
            complain = self._broken and not is_news
            self._broken = is_news
            return False, str(error) if complain else ""
        self._broken = False
        return True, ""

    def _load(self) -> None:
        self._context = server_context(self._cert, self._key)
        self.expiry = expiry_warning(read_certificates(self._cert, "repair it")[0])

    def _state(self) -> object:
        return state_of_file(self._cert), state_of_file(self._key)
