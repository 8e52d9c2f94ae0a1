"""DTLS as aiortc has it, for more peers (RFC 8827, section 6.5).

aiortc offers four cipher suites, all for ECDSA certificates, and insists on keys for media (SRTP). This end speaks DTLS
1.2 only, as OpenSSL has no DTLS 1.3.

aiortc also reads one record of each packet and leaves the others in memory, and lets a peer have the handshake again.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from aiortc import RTCIceTransport
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsParameters, RTCDtlsTransport, State
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL

#: The most that one record holds, in bytes (RFC 6347, section 4.1).
MAX_RECORD = 2**14

#: With ephemeral keys only. Those for RSA are for peers with an RSA certificate; ours is always ECDSA.
CIPHER_SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES256-CCM",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
)


_PERHAPS_1_3 = "it may speak DTLS 1.3 only, and this end speaks 1.2"
_NOTHING_IN_COMMON = "it has no cipher suite of DTLS 1.2, or no kind of certificate, in common with this end"

#: What an alert means (RFC 5246, section 7.2), if this end sent it, and if the peer did.
_OURS = {40: f"{_NOTHING_IN_COMMON}; {_PERHAPS_1_3}", 70: f"it does not speak DTLS 1.2; {_PERHAPS_1_3}"}
_THEIRS = {40: _NOTHING_IN_COMMON, 70: "it does not speak DTLS 1.2, the only version here", 71: _NOTHING_IN_COMMON}


class DtlsFailures:
    """Why a handshake failed. aiortc does not keep OpenSSL's errors, so the alerts of both ends have to tell."""

    def __init__(self) -> None:
        self._reason = ""

    def happened(self, _connection: SSL.Connection, where: int, value: int) -> None:
        """Take what OpenSSL tells of a handshake, for ``SSL_CTX_set_info_callback``."""
        level, alert = value >> 8, value & 0xFF
        if not where & SSL.SSL_CB_ALERT or level != 2 or self._reason:
            return
        if where & SSL.SSL_CB_READ:
            self._reason = _THEIRS.get(alert, f"it sent the alert {alert}")
        else:
            self._reason = _OURS.get(alert, f"this end sent the alert {alert}")

    def explain(self, is_encrypted: bool, heard: bool) -> str:
        """Return why there is no connection.

        :param is_encrypted: whether the handshake itself succeeded.
        :param heard: whether the peer has sent anything of DTLS.
        """
        if is_encrypted:
            return "its certificate is not the one that its description promises"
        if self._reason:
            return self._reason
        return "it does not go on with the handshake" if heard else f"it sends nothing; {_PERHAPS_1_3}"


def digest_of(certificate: RTCCertificate) -> bytes:
    """Return the SHA-256 of a certificate of ours."""
    return certificate._cert.fingerprint(SHA256())


class Certificate(RTCCertificate):
    """A certificate of ours. It also makes the context of its connection.

    :ivar failures: what is known of the connection's handshake.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.failures = DtlsFailures()

    def _create_ssl_context(self, srtp_profiles: list[Any]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        # Each handshake costs milliseconds, and nothing needs a second one.
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        context.set_cipher_list(":".join(CIPHER_SUITES).encode())
        context.set_info_callback(self.failures.happened)
        return context


class SharedCertificate:
    """A host's certificate, which all of its connections present; each is bound to it by the fingerprint in its answer.

    To make one costs as much as reading four offers, and a host need not hide that it is the same as before: it has an
    ID. A client makes a new one for each connection, so that nobody can recognize it by that.
    """

    #: aiortc's certificates are good for 30 days. A new one is made when so much is left.
    RENEW = timedelta(days=15)

    def __init__(self) -> None:
        self._current: Certificate | None = None

    def for_connection(self) -> Certificate:
        """Return the certificate, with a record of failures of its own."""
        current = self._current
        if current is None or current.expires - datetime.now(UTC) < self.RENEW:
            current = self._current = Certificate.generateCertificate()
        return Certificate(current._key, current._cert)


class DtlsTransport(RTCDtlsTransport):
    """A DTLS transport for data channels only."""

    def __init__(self, transport: RTCIceTransport, certificates: list[RTCCertificate]) -> None:
        super().__init__(transport, certificates)
        self._handed_over: asyncio.Event | None = None

    @property
    def peer_digest(self) -> bytes:
        """The SHA-256 of the peer's certificate, once the handshake is over."""
        assert self._ssl is not None
        certificate = self._ssl.get_peer_certificate(as_cryptography=True)
        assert certificate is not None
        return certificate.fingerprint(SHA256())

    def hand_over(self) -> SSL.Connection:
        """Return OpenSSL's connection, once its handshake is over. From now on the caller alone uses it.

        The caller calls :meth:`ended` when the peer has ended it.
        """
        assert self.encrypted
        assert self._ssl is not None
        # aiortc's task goes on, but does nothing: at its end this transport is closed.
        self._handed_over = asyncio.Event()
        return self._ssl

    def ended(self) -> None:
        """Close this transport: the peer has closed the connection that was handed over."""
        assert self._handed_over is not None
        self._handed_over.set()

    def _setup_srtp(self) -> None:
        """Do nothing: there is no media, and a peer that has none either may not have agreed on SRTP."""

    def _validate_peer_identity(self, remoteParameters: RTCDtlsParameters) -> None:
        """See aiortc. A certificate that OpenSSL takes may still be one that cannot be read."""
        try:
            super()._validate_peer_identity(remoteParameters)
        except Exception:
            # The parser of certificates raises many kinds of exceptions.
            self._set_state(State.FAILED)

    async def _recv_next(self) -> None:
        """Take a packet, and all of its records.

        :raises ConnectionError: the peer has closed the connection, or has broken it.
        """
        if self._handed_over is not None:
            await self._handed_over.wait()
            raise ConnectionError("DTLS is closed")
        connection = self._ssl
        if not self.encrypted or connection is None:
            await super()._recv_next()
            return
        connection.bio_write(await self.transport._recv())
        try:
            while True:
                data = connection.recv(MAX_RECORD)
                if self._data_receiver is not None:
                    await self._data_receiver._handle_data(data)
        except SSL.WantReadError:
            # There is no other record.
            await self._write_ssl()
        except SSL.Error as error:
            raise ConnectionError("DTLS is closed") from error
