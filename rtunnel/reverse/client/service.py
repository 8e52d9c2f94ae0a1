"""``rtunnel-client``: holds links to servers, and connects their visitors to local services.

TunnelClient
 +-- certificates   of names whose TLS ends here; only if there are any
 +-- links
      +-- link 1    dials, serves, dials again; a ClientSession each
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from rtunnel.acme.settings import AcmeSettings
from rtunnel.errors import ConfigError, StartupError
from rtunnel.reverse.client.links.link import LinkService
from rtunnel.reverse.client.links.links import Links
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.services.files.tree import check_directory
from rtunnel.upkeep.draining import DrainingService

if TYPE_CHECKING:
    pass


class TunnelClient(DrainingService):
    """The client as a service.

    :param reactor: provides TCP, time and name resolution.
    """

    def __init__(self, reactor: Any, settings: ClientSettings) -> None:
        super().__init__(reactor, "rtunnel-client", settings.drain, has_services=True)
        self.links = Links(reactor, settings, self.visitors)
        self._https = self.links.tls_hosts.https
        self._end_tls()
        self.links.setServiceParent(self)

    @property
    def link(self) -> LinkService:
        """The first link."""
        return self.links.first

    def startService(self) -> None:
        """Begin. By now this is the user of ``twistd --uid``.

        :raises StartupError: he may not read a directory that is to be served.
        """
        try:
            self._check_directories(wanted.settings for wanted in self.links.wanted)
        except ConfigError as error:
            raise StartupError(str(error)) from error
        super().startService()

    def apply(self, tunnels: Sequence[TunnelSettings], acme: AcmeSettings | None = None) -> Deferred[None]:
        """Serve these tunnels from now on, and no others. Those that are the same as before are not touched.

        New visitors of one that goes are refused, and those it has finish, however long that takes. Where the server
        need not know of a change, as of another service, it is made without a gap. Otherwise the tunnel is given up,
        and asked for again at once.

        :param acme: where certificates come from; None: as before.
        :returns: fires when visitors of what has gone are refused here, which the server may have sent before it knew.
        :raises ConfigError: this cannot be done, and nothing has changed.
        """
        if self.is_stopping:
            raise ConfigError("the client is going down")
        self._check_directories(tunnels)
        applied = self.links.apply(tunnels, acme)
        self._end_tls()
        return applied

    @property
    def settings(self) -> ClientSettings:
        """The settings in use."""
        return self.links.settings

    @settings.setter
    def settings(self, settings: ClientSettings) -> None:
        self.links.set_settings(settings)

    def _end_tls(self) -> None:
        hosts = self.links.tls_hosts
        if hosts.are_there and hosts.parent is None:
            hosts.setServiceParent(self)
            hosts.threads.setServiceParent(self)

    def _check_directories(self, tunnels: Iterable[TunnelSettings]) -> None:
        for directory in {tunnel.local.directory for tunnel in tunnels}:
            if directory is not None:
                check_directory(directory)

    async def refuse_visitors(self) -> None:
        """See :meth:`LinkService.withdraw`. If all visitors stay for the next process, so do the tunnels."""
        if self.keeper is not None and self.keeper.can_keep_any and not self.keeper.others:
            await self.keeper.leave()
        else:
            await self.links.withdraw(lambda: self.may_wait)
        self._https.stop()
        for session in self.links.sessions:
            session.link.on_stream_count = lambda _change: self.stream_ended()
            session.ended.addCallback(lambda _reason: self.stream_ended())

    def streams_left(self) -> int:
        """See :class:`DrainingService`."""
        return self.links.streams_left()

    async def close_links(self) -> None:
        """Close the links to the servers."""
        await self.links.stopService()
