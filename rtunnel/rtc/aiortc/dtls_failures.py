"""Why a DTLS handshake failed. aiortc does not keep OpenSSL's errors, so the alerts of both ends have to tell.

This end speaks DTLS 1.2 only, as OpenSSL has no DTLS 1.3.
"""

from __future__ import annotations

from typing import Any

from aiortc.rtcdtlstransport import RTCCertificate
from OpenSSL import SSL

_PERHAPS_1_3 = "it may speak DTLS 1.3 only, and this end speaks 1.2"
_NOTHING_IN_COMMON = "it has no cipher suite of DTLS 1.2, or no kind of certificate, in common with this end"

#: What an alert means (RFC 5246, section 7.2), if this end sent it, and if the peer did.
_OURS = {40: f"{_NOTHING_IN_COMMON}; {_PERHAPS_1_3}", 70: f"it does not speak DTLS 1.2; {_PERHAPS_1_3}"}
_THEIRS = {40: _NOTHING_IN_COMMON, 70: "it does not speak DTLS 1.2, the only version here", 71: _NOTHING_IN_COMMON}


class DtlsFailures:
    """Watches the handshake of one connection.

    :param certificate: the connection's. It makes the context of the connection, which is watched.
    """

    def __init__(self, certificate: RTCCertificate) -> None:
        self._reason = ""
        create = certificate._create_ssl_context

        def create_and_watch(srtp_profiles: list[Any]) -> SSL.Context:
            context = create(srtp_profiles)
            context.set_info_callback(self._happened)
            return context

        certificate._create_ssl_context = create_and_watch  # type: ignore[method-assign]

    def _happened(self, _connection: SSL.Connection, where: int, value: int) -> None:
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
