"""Sessions that TLS can resume: how a data connection is spared the certificates, and what bounds that.

A session is the proof of one whole handshake, kept by the client; the server keeps nothing but the key to its tickets,
which is another for every set of files and every process. So a session is worth nothing once the files of either end
are others: a new CA, a new certificate, a new list of the revoked ones. Nor does it outlive the certificates above the
two ends', which are not seen again when it is resumed. The ends' own are looked at each time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from OpenSSL import SSL

from rtunnel.tls import openssl

#: How old a session may become, in seconds. Resuming does not make it younger.
SESSION_LIFETIME = 3600


class Session:
    """What a client keeps of one handshake. Any number of connections may be made with it.

    :ivar context: with this one only.
    :ivar content: as OpenSSL writes it; it holds a secret.
    """

    __slots__ = ("_read", "content", "context")

    def __init__(self, context: SSL.Context, content: bytes) -> None:
        self.context = context
        self.content = content
        self._read: Any = None

    def offer(self, connection: SSL.Connection) -> None:
        """Let *connection* ask to go on from it."""
        # Its certificate is read and kept once, and not for each connection.
        if self._read is None:
            self._read = openssl.read_session(self.content)
        if self._read is not None:
            openssl.offer_session(connection, self._read)

    def was_refused(self) -> None:
        """A connection was a whole handshake after all: perhaps OpenSSL takes what was read for spoilt."""
        self._read = None


class SessionBounds:
    """Until when the sessions of one set of files may be resumed.

    :param own: the certificate that our end shows.
    """

    def __init__(self, own: x509.Certificate) -> None:
        self._end = own.not_valid_after_utc

    def saw_issuer(self, certificate: x509.Certificate) -> None:
        """This certificate vouches for another end."""
        self._end = min(self._end, certificate.not_valid_after_utc)

    @property
    def are_over(self) -> bool:
        """Whether every handshake is to be a whole one from now on, until there are other files."""
        return datetime.now(UTC) > self._end
