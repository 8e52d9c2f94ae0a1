"""The tunnels whose TLS ends at the client, and their certificates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from rtunnel.access.passwords import PasswordThreads
from rtunnel.acme.settings import HTTP_01, TLS_ALPN_01, AcmeSettings
from rtunnel.reverse.client.https import HttpsHouse
from rtunnel.reverse.settings import ClientSettings, TunnelSettings, challenge_tunnels
from rtunnel.tls.policy import CertificateFiles
from rtunnel.tls.turns import Turns
from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import PeriodicService, do_all

if TYPE_CHECKING:
    from rtunnel.acme.orders import Orders
    from rtunnel.tls.hosts import FilesOfHost, Host

#: Seconds between two looks at what is due.
EVERY = 1.0
#: By which kind of challenge a CA can check a host through a tunnel.
Check = tuple[str, "Host"]


# Most clients have no such tunnel, and what these import takes 12 MiB.


def _new_host(name: str) -> Host:
    from rtunnel.tls.hosts import Host

    return Host(name)


def _files_of(host: Host, files: CertificateFiles) -> FilesOfHost:
    from rtunnel.tls.hosts import FilesOfHost

    return FilesOfHost(host, files)


class TlsHosts(PeriodicService):
    """Keeps certificates up to date.

    :param accounts: of all tunnels.
    :ivar turns: those of handshakes with visitors.
    :ivar https: the requests in the TLS that ends here.
    :ivar threads: compute the hashes of visitors' passwords.
    :ivar challenges: the tunnels through which a CA comes, if it does not come like a visitor.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: ClientSettings, accounts: Accounts) -> None:
        super().__init__(reactor, "certificates", EVERY, self._tick)
        self.turns = Turns(reactor)
        self.threads = PasswordThreads(reactor)
        self.https = HttpsHouse(reactor, LogLimiter(self.log, reactor), self.threads, accounts)
        self._reactor = reactor
        self._acme = settings.acme
        self._hosts: dict[str, Host] = {}
        # Who ends the TLS of each, and those with files.
        self._ends: dict[str, str | CertificateFiles] = {}
        self._files: dict[str, FilesOfHost] = {}
        self._orders: Orders | None = None
        self._rests = False
        # By which links.
        self._published: dict[Check, set[object]] = {}
        self.challenges: tuple[TunnelSettings, ...] = ()
        self.use(settings.tunnels, settings.acme)

    def use(self, tunnels: Sequence[TunnelSettings], acme: AcmeSettings | None) -> None:
        """Look after these tunnels from now on. What stays the same is not touched.

        :param acme: where certificates come from; None: as before.
        :raises ConfigError: the files of one cannot be used, or one is in the way of :attr:`challenges`; then nothing
            changes.
        """
        challenges = challenge_tunnels(tunnels, acme or self._acme)
        wanted = {tunnel.host: tunnel.tls for tunnel in tunnels if tunnel.ends_tls}
        hosts = {name: _new_host(name) for name, end in wanted.items() if self._ends.get(name) != end}
        files = {
            name: _files_of(host, end)
            for name, host in hosts.items()
            if isinstance(end := wanted[name], CertificateFiles)
        }
        if acme is not None and acme != self._acme:
            self._stop_orders()
            self._acme = acme
        for name in [name for name, end in self._ends.items() if wanted.get(name) != end]:
            del self._ends[name]
            self._files.pop(name, None)
            host = self._hosts.pop(name)
            for challenge in (TLS_ALPN_01, HTTP_01):
                self._published.pop((challenge, host), None)
            if self._orders is not None:
                self._orders.remove(host)
        self.challenges = challenges
        self._ends, self._files = wanted, self._files | files
        self._hosts |= hosts
        ordered = [host for name, host in self._hosts.items() if not isinstance(wanted[name], CertificateFiles)]
        if self._orders is None and self._acme is not None and ordered:
            from rtunnel.acme.orders import Orders

            self._orders = Orders(self._reactor, self._acme, ordered)
            if self.running:
                self._start_orders(self._orders)
        elif self._orders is not None:
            for host in ordered:
                if host.pattern in hosts:
                    self._orders.add(host)

    def _start_orders(self, orders: Orders) -> None:
        orders.start()
        for check in self._published:
            self._tell(check, True)

    def _stop_orders(self) -> None:
        orders, self._orders = self._orders, None
        if orders is not None:
            orders.stop()

    @property
    def is_ordering(self) -> bool:
        """Whether a CA is being asked for something."""
        return self._orders is not None and self._orders.is_busy

    def rest(self) -> None:
        """Order and write nothing: another process does from now on."""
        self._rests = True

    def go_on(self) -> None:
        """Undo :meth:`rest`."""
        self._rests = False

    @property
    def are_there(self) -> bool:
        """Whether there are any such tunnels."""
        return bool(self._hosts)

    def check_by(self, tunnel: TunnelSettings) -> Check | None:
        """Return what a CA that comes through *tunnel* can check; None: nothing."""
        host = self._hosts.get(tunnel.host) if tunnel.ends_tls or tunnel.answers_challenges else None
        return None if host is None else (HTTP_01 if tunnel.answers_challenges else TLS_ALPN_01, host)

    def published(self, check: Check | None, is_published: bool, link: object) -> None:
        """Take note whether a CA can come through a tunnel of a link. One link is enough."""
        if check is None:
            return
        links = self._published.setdefault(check, set())
        if is_published:
            links.add(link)
        else:
            links.discard(link)
        if not links:
            del self._published[check]
        self._tell(check, bool(links))

    def _tell(self, check: Check, is_published: bool) -> None:
        if self._orders is not None and self._acme is not None and check[0] == self._acme.challenge:
            self._orders.published(check[1], is_published)

    def startService(self) -> None:
        """Begin."""
        if self._orders is not None:
            self._start_orders(self._orders)
        super().startService()

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._orders is not None:
            self._orders.stop()

    def _tick(self) -> None:
        orders = [] if self._orders is None or self._rests else [self._orders.tick]
        do_all([self.https.tick, *(files.refresh for files in self._files.values()), *orders])
