"""All links of a client, and what they share."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtunnel.acme.settings import AcmeSettings
from rtunnel.relay.poller import poller_for
from rtunnel.reverse.client.links.link import LOOK_EVERY, LinkService
from rtunnel.reverse.client.links.targets import Target
from rtunnel.reverse.client.session import ClientSession
from rtunnel.reverse.client.tls_hosts import TlsHosts
from rtunnel.reverse.client.wanted import WantedTunnels
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.upkeep.memory import Memory, default_memory
from rtunnel.upkeep.visitors import Visitors

if TYPE_CHECKING:
    from rtunnel.reverse.client.tls_dialler import TlsDialler

#: Seconds from one link that is made anew with another certificate to the next one.
RENEWAL = 5.0


def build_tls(reactor: Any, settings: ClientSettings) -> TlsDialler | None:
    """Return what makes links over TLS; None: they are plain TCP.

    :raises ConfigError: the files of TLS cannot be used.
    """
    if settings.tls is None:
        return None
    from rtunnel.reverse.client.tls_dialler import TlsDialler

    return TlsDialler(reactor, settings.tls, settings.connect_timeout)


class Links(MultiService):
    """Holds as many links as the settings say, each to a server, or an address of one, to which no other leads.

    :ivar settings: those in use.
    :ivar visitors: those of all links.
    :ivar memory: what all links may hold together.
    :ivar tls_hosts: the names whose TLS ends here.
    :ivar wanted: the tunnels, which each link asks for.
    :ivar tls: makes links over TLS; None: they are plain TCP.
    """

    log = Logger()

    def __init__(self, reactor: Any, settings: ClientSettings, visitors: Visitors) -> None:
        super().__init__()
        self.setName("links")
        self.reactor = reactor
        self.settings = settings
        self.visitors = visitors
        self.tls_hosts = TlsHosts(reactor, settings, visitors.accounts)
        self.memory = Memory(settings.memory or default_memory(), reactor, self.log)
        self.poller = poller_for(reactor)
        self.hedges = Hedges(reactor, settings.hedge)
        self.wanted = WantedTunnels(reactor, settings, self.tls_hosts, visitors.accounts)
        self.tls = build_tls(self.reactor, settings)
        # One name for the life of the process, by which servers recognise us when we come back.
        self._session_name = secrets.token_hex(16)
        self._said_fewer = 0
        # When a link was made anew with another certificate.
        self._renewed: float | None = None
        self._all: list[LinkService] = []
        self._add_links()

    def _add_links(self) -> None:
        while len(self._all) < self.settings.links:
            link = LinkService(self, len(self._all))
            self._all.append(link)
            link.setServiceParent(self)

    @property
    def first(self) -> LinkService:
        """The first link, which is always there."""
        return self._all[0]

    @property
    def all(self) -> Sequence[LinkService]:
        """The links, whether they are up or not."""
        return self._all

    @property
    def sessions(self) -> Sequence[ClientSession]:
        """The links that are up."""
        return [link.session for link in self._all if link.session is not None]

    # What a link asks

    @property
    def session_name(self) -> str:
        """By which servers know this process when it comes back."""
        return self._session_name

    @session_name.setter
    def session_name(self, name: str) -> None:
        self._session_name = name
        for link in self._all:
            link.rename()

    @property
    def has_several(self) -> bool:
        """Whether there is more than one link."""
        return len(self._all) > 1

    def are_up(self) -> bool:
        """Whether any link is up."""
        return bool(self.sessions)

    def is_free(self, target: Target, link: object) -> bool:
        """Return whether no link but *link* leads to a target."""
        return not any(target.key in each.places for each in self._all if each is not link)

    def may_renew(self) -> bool:
        """Return whether a link may be made anew now, with another certificate. Not all of them may at a time."""
        now = self.reactor.seconds()
        if self._renewed is not None and now - self._renewed < RENEWAL:
            return False
        self._renewed = now
        return True

    def moved(self) -> None:
        """Let links to which no server was left look again."""
        for link in list(self._all):
            link.others_moved()

    def are_fewer(self, count: int) -> None:
        """Say once that there are fewer servers than links."""
        if self._said_fewer != count < self.settings.links:
            self._said_fewer = count
            self.log.warn(
                "{links} links are wanted, and the servers have {count} address(es): there are no more links than that",
                links=self.settings.links,
                count=count,
            )

    # Changes

    def apply(self, tunnels: Sequence[TunnelSettings], acme: AcmeSettings | None) -> Deferred[None]:
        """Serve these tunnels from now on; see :meth:`TunnelClient.apply`."""
        self.tls_hosts.use(tunnels, acme)
        self.wanted.use(tunnels)
        return gatherResults([session.sync() for session in self.sessions]).addCallback(lambda _: None)

    def use(self, settings: ClientSettings) -> None:
        """Use other settings; see :meth:`LinkService.use`. A link whose server stays is not touched.

        :raises ConfigError: the files of TLS cannot be used, so nothing changes.
        """
        self.tls = build_tls(self.reactor, settings)
        self.set_settings(settings, only_these=True)
        surplus, self._all = self._all[settings.links :], self._all[: settings.links]
        for link in self._all:
            link.use(settings)
        for link in surplus:
            Deferred.fromCoroutine(self._retire(link)).addErrback(self._not_retired)
        self._add_links()
        self.moved()

    def set_settings(self, settings: ClientSettings, *, only_these: bool = False) -> None:
        """Look at these settings from now on.

        :param only_these: the links have others still.
        """
        self.settings = settings
        if not only_these:
            for link in self._all:
                link.settings = settings

    def _not_retired(self, failure: Any) -> None:
        self.log.failure("when a link was given up", failure)

    async def _retire(self, link: LinkService) -> None:
        """Give up a link. Its visitors have as much time as when the process stops."""
        until = self.reactor.seconds() + self.settings.drain
        await link.withdraw(lambda: True)
        while link.streams_left and self.reactor.seconds() < until and self.running:
            await deferLater(self.reactor, LOOK_EVERY)
        if link.parent is not None:
            await link.disownServiceParent()

    def dial_services_with(self, timeout: float, *, check: bool) -> None:
        """Dial the local services in another way; see :meth:`WantedTunnels.dial_with`."""
        self.wanted.dial_with(timeout, check=check)

    def set_dial_timeout(self, timeout: float) -> None:
        """Give local services so many seconds to accept a connection."""
        for link in self._all:
            link.dial_timeout = timeout

    # Another process

    def await_successor(self) -> None:
        """See :meth:`LinkService.await_successor`."""
        for link in self._all:
            link.await_successor()

    def go_on(self) -> None:
        """Undo :meth:`await_successor`."""
        for link in self._all:
            link.go_on()

    def hand_over(self) -> None:
        """Take note that another process has taken the links over."""
        for link in self._all:
            link.has_successor = True

    # The end

    async def withdraw(self, has_time: Callable[[], bool]) -> None:
        """See :meth:`LinkService.withdraw`; all links at a time."""
        links = [Deferred.fromCoroutine(link.withdraw(has_time)) for link in self._links_of_parent()]
        for worked, failure in await DeferredList(links, consumeErrors=True):
            if not worked:
                self.log.failure("when a link was to take no more visitors", failure)

    def streams_left(self) -> int:
        """Return how many streams the links still carry."""
        return sum(link.streams_left for link in self._links_of_parent())

    def _links_of_parent(self) -> Iterator[LinkService]:
        """Yield the links, and those that are being given up."""
        return (link for link in list(self) if isinstance(link, LinkService))
