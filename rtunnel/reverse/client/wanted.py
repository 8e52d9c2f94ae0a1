"""The tunnels that a client is to serve. They outlive its links, and may change while it runs.

Each has a number, by which links name it. A tunnel that comes later gets one that none has had, so that no visitor of
one that went can be taken for one of its own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IStreamClientEndpoint

from rtunnel.access.rules import rules_as_json, without_requests
from rtunnel.errors import Code
from rtunnel.reverse.client.tls_hosts import Check, TlsHosts
from rtunnel.reverse.datagrams.client_flows import ClientFlow, ClientFlows, IUdpTunnel
from rtunnel.reverse.proxy_protocol import header_for
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.services.challenges import challenge_endpoint
from rtunnel.services.files.endpoint import COST, service_endpoint
from rtunnel.services.health import HealthWatch
from rtunnel.services.shared_watch import SharedWatch, Watch
from rtunnel.services.watch import MOST_AT_ONCE, ServiceWatch
from rtunnel.traffic.accounts import Account, Accounts
from rtunnel.wire.tunnel_request import TunnelRequest

if TYPE_CHECKING:
    from rtunnel.tls.hosts import Host


def request_of(tunnel: TunnelSettings) -> TunnelRequest:
    """Return what the server is asked for."""
    rules = without_requests(tunnel.rules) if tunnel.protocol == "https" else tunnel.rules
    return TunnelRequest(
        tunnel.remote_port, str(tunnel.local), tunnel.protocol, tunnel.host, tunnel.path, rules_as_json(rules)
    )


class Wanted:
    """One of the tunnels.

    :ivar number: its number on all links.
    :ivar version: how often its service was replaced by another.
    :ivar descriptors: how many a visitor takes.
    :ivar address: see :class:`~rtunnel.reverse.client.interfaces.IService`.
    :ivar watch: tells whether the service answers; None: nobody looks.
    :ivar watching: by which all links watch; None: nobody looks.
    :ivar check: what a CA that comes through it can check; None: nothing.
    :ivar tls: whose TLS ends here; None: it does not.
    :ivar account: counts what visitors send and get.
    :ivar request: what the server is asked for.
    :ivar is_gone: it is wanted no longer.
    :ivar cross: takes a visitor, by his address, where there is no service to be dialled; returns a connected socket,
        or None if he cannot be taken. None: there is a service.
    :ivar why_gone: the code by which the server hears of that.
    """

    cross: Callable[[str], socket.socket | None] | None = None
    why_gone: str = Code.SHUTTING_DOWN

    def __init__(self, number: int) -> None:
        self.number = number
        self.version = -1
        self.watching: SharedWatch | None = None
        self.is_gone = False

    @property
    def watch(self) -> Watch | None:
        """See :class:`Wanted`."""
        return None if self.watching is None else self.watching.watch

    def rest(self) -> None:
        """Look no more whether the service answers."""
        if self.watching is not None:
            self.watching.end()

    def use(
        self,
        reactor: Any,
        settings: TunnelSettings,
        timeout: float,
        watch: Watch | None,
        check: Check | None,
        account: Account,
    ) -> None:
        """Lead to this service from now on.

        :param timeout: seconds that it has to accept a connection.
        """
        self.rest()
        self.version += 1
        self.settings = settings
        if settings.answers_challenges:
            assert check is not None
            self.endpoint = challenge_endpoint(reactor, check[1], settings.path, is_shared=bool(settings.rules.group))
        else:
            self.endpoint = service_endpoint(reactor, settings.local, timeout, settings.path)
        self.address = settings.local.socket_address()
        self.descriptors = 1 + COST if settings.is_served_here else 2
        self.watching = None if watch is None else SharedWatch(watch)
        self.check = check
        self.tls: Host | None = check[1] if check is not None and settings.ends_tls else None
        self.account = account
        self.request = request_of(settings)

    def endpoint_for(self, visitor: str) -> IStreamClientEndpoint:
        """Return where a visitor is taken who comes by the link."""
        return self.endpoint

    def flow(self, owner: ClientFlows, key: tuple[int, str], tunnel: IUdpTunnel) -> ClientFlow:
        """Return a flow of a visitor that begins."""
        return ClientFlow(owner, key, tunnel)


class WantedTunnels:
    """All of them, in the order in which the operator named them.

    :ivar answered: the servers that have ever said HELLO, as the operator wrote them.
    """

    def __init__(self, reactor: Any, settings: ClientSettings, tls_hosts: TlsHosts, accounts: Accounts) -> None:
        self._reactor = reactor
        self._accounts = accounts
        self._dial_timeout = settings.dial_timeout
        self._check_services = settings.check_services
        self._tls_hosts = tls_hosts
        self._turns = DeferredSemaphore(MOST_AT_ONCE)
        self._next = 0
        self.answered: set[str] = set()
        self._all: list[Wanted] = []
        self.use(settings.tunnels)

    def dial_with(self, timeout: float, *, check: bool) -> None:
        """Dial the services in another way.

        :param timeout: seconds that they have to accept a connection.
        :param check: whether to look now and then whether they answer.
        """
        if (timeout, check) == (self._dial_timeout, self._check_services):
            return
        self._dial_timeout, self._check_services = timeout, check
        for each in self._all:
            each.use(self._reactor, each.settings, timeout, self._watch(each.settings), each.check, each.account)

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def use(self, tunnels: Iterable[TunnelSettings]) -> None:
        """Want these, those for challenges, and no others. Those that stay the same are not touched; of one that stays
        at its public place, only the service is replaced if the server need not know."""
        before = {each.settings.place: each for each in self._all}
        self._all = []
        for tunnel in [*tunnels, *self._tls_hosts.challenges]:
            wanted, check = before.pop(tunnel.place, None), self._tls_hosts.check_by(tunnel)
            if wanted is not None and wanted.settings == tunnel and wanted.check == check:
                wanted.settings = tunnel
            else:
                if wanted is not None and not _is_like(wanted.request, request_of(tunnel)):
                    self._drop(wanted)
                    wanted = None
                if wanted is None:
                    wanted = Wanted(self._next)
                    self._next += 1
                account = self._accounts.of("", tunnel.shown_name)
                wanted.use(self._reactor, tunnel, self._dial_timeout, self._watch(tunnel), check, account)
            self._all.append(wanted)
        for wanted in before.values():
            self._drop(wanted)

    def _drop(self, wanted: Wanted) -> None:
        wanted.is_gone = True
        wanted.rest()

    def _watch(self, tunnel: TunnelSettings) -> Watch | None:
        if tunnel.protocol == "udp" or tunnel.is_served_here:
            return None
        header = header_for(tunnel, "")
        if tunnel.health is not None:
            return HealthWatch(self._reactor, tunnel.local, tunnel.health, self._turns, header)
        may_try = self._turns if self._check_services else None
        return ServiceWatch(self._reactor, tunnel.local, self._dial_timeout, may_try, header)

    def begin_link(self) -> None:
        """See to it that one has the number 0, which a reference server serves and no other. No link may be up."""
        first = next((each for each in self._all if each.settings.protocol == "tcp"), None)
        if first is not None and all(each.number for each in self._all):
            first.number = 0


def _is_like(one: TunnelRequest, other: TunnelRequest) -> bool:
    """Return whether two requests are the same but for the address of the service, which is for logs."""
    return replace(one, local="") == replace(other, local="")
