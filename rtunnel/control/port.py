"""The status port by HTTPS."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.application.service import MultiService
from twisted.logger import Logger

from rtunnel.control.settings import StatusSettings
from rtunnel.relay.sockets import format_address
from rtunnel.tls.explanations import openssl_reason
from rtunnel.tls.web_server import WebCredentials, WebTlsFactory, explain_web_failure
from rtunnel.upkeep.listening import Listener
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import PeriodicService, do_all

#: The options with the files, for errors.
OPTION = "--status-tls-{}"
_NOT_OURS = "its certificate is not from a CA of --status-tls-ca, not a client's, or has expired"
#: Why a handshake failed, by a part of OpenSSL's reason, where it is another text than that for ``wss``.
_REASONS = {
    "http request": "it speaks no TLS; write https:// there",
    "peer did not return a certificate": "it shows no certificate; give it one from a CA of --status-tls-ca",
    "certificate verify failed": _NOT_OURS,
    # It is from another CA of the same name.
    "provider signature failure": _NOT_OURS,
    "alert unknown ca": "it refuses our certificate (--status-tls-cert), as it does not know the CA",
    "alert bad certificate": "it refuses our certificate (--status-tls-cert); is it for the name in the URL there?",
    "alert certificate unknown": "it refuses our certificate (--status-tls-cert); is its CA known there?",
}


class HttpsPort(MultiService):
    """Listens, and looks after the files of TLS.

    :param settings: have an address, a certificate and its key.
    :param factory: answers requests; its ``abort_all`` ends all connections.
    :raises ConfigError: the files cannot be used.
    :ivar listener: the port itself.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: StatusSettings, factory: Any) -> None:
        super().__init__()
        self.setName("status port")
        assert settings.listen is not None
        assert settings.cert is not None
        assert settings.key is not None
        self._above = factory
        self._log_limiter = LogLimiter(self.log, reactor)
        self._credentials = WebCredentials(settings.cert, settings.key, settings.ca, OPTION)
        tls = WebTlsFactory(self._credentials, factory, reactor, self._failed)
        self.listener = Listener(reactor, settings.listen, tls, "status port", "--status-listen")
        self.listener.setServiceParent(self)
        PeriodicService(reactor, "files of the status port", 1.0, self._look).setServiceParent(self)

    def startService(self) -> None:
        """Start, and warn if the certificate expires."""
        super().startService()
        self._credentials.warn_of_expiry(self.log)

    def _look(self) -> None:
        do_all([self._log_limiter.tick, self._look_at_files])

    def _look_at_files(self) -> None:
        authorities = self._credentials.now.authorities
        self._credentials.look(self.log, "the files of the status port")
        if self._credentials.now.authorities != authorities:
            # Whoever may still read connects again.
            self._above.abort_all()

    def _failed(self, transport: Any, error: SSL.Error) -> None:
        reason = openssl_reason(error)
        if not reason:
            # It only looked whether the port is open, as load balancers do.
            return
        why = next((text for part, text in _REASONS.items() if part in reason), None)
        self._log_limiter.warn(
            "connection from {peer} to the status port closed: {why}",
            peer=format_address(transport.getPeer()),
            why=why or explain_web_failure(error),
        )
