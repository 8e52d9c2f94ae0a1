"""TLS sessions and their resumption (RFC 8446, section 2.2), which spares data connections the full handshake.

The client keeps the session of a full handshake. The server keeps only its ticket key, a new one for each process and
each set of files. So a session is void once the files of either end have changed: a new CA, a new certificate, a new
revocation list. It also ends with the first CA certificate that expires, because resumption does not look at CA
certificates again. The certificates of both ends are checked each time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from OpenSSL import SSL

from rtunnel.tls import openssl

#: How long a session may be resumed after its full handshake, in seconds.
SESSION_LIFETIME = 3600


class TlsSession:
    """What a client keeps from a full handshake. Any number of connections may resume it.

    :ivar context: the only context whose connections may resume it.
    :ivar content: the session as OpenSSL serialises it; contains a secret.
    """

    __slots__ = ("_read", "content", "context")

    def __init__(self, context: SSL.Context, content: bytes) -> None:
        self.context = context
        self.content = content
        self._read: Any = None

    def offer(self, connection: SSL.Connection) -> None:
        """Let *connection* ask to resume this session."""
        # Read the session once: each copy takes time, and holds a copy of the certificate.
        if self._read is None:
            self._read = openssl.read_session(self.content)
        if self._read is not None:
            openssl.offer_session(connection, self._read)

    def was_refused(self) -> None:
        """Read the session again for the next connection, since OpenSSL may have invalidated it."""
        self._read = None


class SessionBounds:
    """How long sessions that began with one set of files may be resumed.

    :param own: our certificate.
    """

    def __init__(self, own: x509.Certificate) -> None:
        self._end = own.not_valid_after_utc

    def saw_issuer(self, certificate: x509.Certificate) -> None:
        """Let no session outlive *certificate*, which belongs to a CA that vouches for a peer."""
        self._end = min(self._end, certificate.not_valid_after_utc)

    @property
    def are_over(self) -> bool:
        """Whether no session may be resumed until the files change."""
        return datetime.now(UTC) > self._end
