"""Credentials for two ends that know each other by fingerprint, so that no CA need vouch for a certificate.

What the handshake proves is that the peer has the key of the certificate that it shows. Whether that certificate is
accepted is decided afterwards, by :mod:`rtunnel.access.trust`. Key exchange and signatures are those of
:mod:`rtunnel.tls.policy`, without anything classical.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from OpenSSL import SSL, crypto

from rtunnel.errors import ConfigError
from rtunnel.tls.explanations import openssl_reason
from rtunnel.tls.identity import Peer
from rtunnel.tls.openssl import use_private_key
from rtunnel.tls.policy import Role, make_context


class SelfSigned:
    """What an end presents, always the same; see :class:`~rtunnel.tls.engine.OwnCredentials`.

    :param certificate: this end's, with a key of ML-DSA.
    :param chain: what it shows beside it, for peers that know a CA.
    :param key: the private key.
    :raises ConfigError: TLS cannot use them.
    :ivar context: for connections.
    """

    needs_ca = allow_classical = False

    def __init__(
        self, role: Role, certificate: x509.Certificate, chain: Sequence[x509.Certificate], key: crypto.PKey
    ) -> None:
        self.role = role
        self.certificate = certificate
        self.context = make_context()
        try:
            self.context.use_certificate(certificate)
            for each in chain:
                self.context.add_extra_chain_cert(each)
            use_private_key(self.context, key)
            self.context.check_privatekey()
        except (SSL.Error, crypto.Error) as error:
            raise ConfigError(f"the identity of this end cannot be used by TLS: {openssl_reason(error)}") from None

    @property
    def now(self) -> SelfSigned:
        """See :class:`~rtunnel.tls.engine.OwnCredentials`."""
        return self

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        """Return False: whoever accepts the peer looks."""
        return False

    def why_revoked(self, peer: Peer) -> str:
        """Return nothing: whoever accepts the peer looks."""
        return ""

    def saw_issuer(self, ca: x509.Certificate) -> None:
        """Do nothing: no CA has vouched."""
