"""DTLS as aiortc has it, for more peers (RFC 8827, section 6.5).

aiortc offers four cipher suites, all for ECDSA certificates, and insists on keys for media (SRTP).
"""

from __future__ import annotations

from typing import Any

from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsTransport
from OpenSSL import SSL

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


class Certificate(RTCCertificate):
    """A certificate of ours. It also makes the context of its connection."""

    def _create_ssl_context(self, srtp_profiles: list[Any]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(":".join(CIPHER_SUITES).encode())
        return context


class DtlsTransport(RTCDtlsTransport):
    """A DTLS transport for data channels only."""

    def _setup_srtp(self) -> None:
        """Do nothing: there is no media, and a peer that has none either may not have agreed on SRTP."""
