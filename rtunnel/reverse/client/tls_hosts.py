"""The tunnels whose TLS ends at the client, and their certificates."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from rtunnel.access.passwords import PasswordThreads
from rtunnel.acme.orders import Orders
from rtunnel.reverse.client.https import HttpsHouse
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.tls.hosts import CertificateFiles, FilesOfHost, Host
from rtunnel.tls.turns import Turns
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import PeriodicService, do_all

#: Seconds between two looks at what is due.
EVERY = 1.0


class TlsHosts(PeriodicService):
    """Keeps certificates up to date.

    :ivar turns: those of handshakes with visitors.
    :ivar https: the requests in the TLS that ends here.
    :ivar threads: compute the hashes of visitors' passwords.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: ClientSettings) -> None:
        super().__init__(reactor, "certificates", EVERY, self._tick)
        self.turns = Turns(reactor)
        self.threads = PasswordThreads(reactor)
        self.https = HttpsHouse(reactor, LogLimiter(self.log, reactor), self.threads)
        self._hosts: dict[str, Host] = {}
        self._files: list[FilesOfHost] = []
        ordered = []
        for tunnel in settings.tunnels:
            if tunnel.protocol != "https" or tunnel.tls in ("", "passthrough"):
                continue
            host = self._hosts[tunnel.host] = Host(tunnel.host)
            if isinstance(tunnel.tls, CertificateFiles):
                self._files.append(FilesOfHost(host, tunnel.tls))
            else:
                ordered.append(host)
        self._orders = Orders(reactor, settings.acme, ordered) if settings.acme is not None else None

    @property
    def are_there(self) -> bool:
        """Whether there are any such tunnels."""
        return bool(self._hosts)

    def host(self, tunnel: TunnelSettings) -> Host | None:
        """Return whose TLS ends here; None: that of *tunnel* does not."""
        return self._hosts.get(tunnel.host) if tunnel.protocol == "https" else None

    def published(self, host: Host | None, is_published: bool) -> None:
        """Take note whether visitors, and so a CA, reach *host*."""
        if host is not None and self._orders is not None:
            self._orders.published(host, is_published)

    def startService(self) -> None:
        """Begin."""
        if self._orders is not None:
            self._orders.start()
        super().startService()

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._orders is not None:
            self._orders.stop()

    def _tick(self) -> None:
        orders = [] if self._orders is None else [self._orders.tick]
        do_all([self.https.tick, *(files.refresh for files in self._files), *orders])
