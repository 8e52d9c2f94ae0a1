"""The ports of the server that are shared by host names, and what is published at them."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.application.service import MultiService

from rtunnel.access.public import Public
from rtunnel.addresses import ListenAddress
from rtunnel.errors import Code, Refused
from rtunnel.relay.bare_port import LandingFactory
from rtunnel.reverse.server.hosts import HostNames
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.settings import ServerSettings
from rtunnel.upkeep.listening import Listener, moved

#: The ports that URLs do not name.
USUAL = {"http": 80, "https": 443}


class NamedPorts(MultiService):
    """The HTTP port and the HTTPS port, as far as there are such.

    :param fronts: what accepts their connections, by protocol.
    """

    def __init__(
        self, reactor: Any, settings: ServerSettings, names: HostNames, fronts: dict[str, LandingFactory]
    ) -> None:
        super().__init__()
        self.setName("host names")
        self._reactor = reactor
        self._names = names
        self._fronts = fronts
        self.listeners: dict[str, Listener] = {}
        for protocol, address in (("http", settings.http_listen), ("https", settings.https_listen)):
            if address is not None:
                listener = self.listeners[protocol] = self._build(protocol, address)
                listener.setServiceParent(self)

    def _build(self, protocol: str, address: ListenAddress) -> Listener:
        what, option = f"{protocol.upper()} port", f"--{protocol}-listen"
        return Listener(self._reactor, address, self._fronts[protocol], what, option)

    async def move(self, protocol: str, address: ListenAddress | None) -> None:
        """Listen elsewhere, or nowhere.

        :raises StartupError: it cannot listen there, so nothing changes.
        """
        listener = await moved(self.listeners.get(protocol), address, partial(self._build, protocol), self)
        if listener is None:
            self.listeners.pop(protocol, None)
        else:
            self.listeners[protocol] = listener

    async def claim(self, public: Public, backend: Backend) -> str:
        """Let *backend* serve the host name of *public*, for which there is a port; return its URL.

        :raises Refused: somebody else has it.
        """
        await self._names.claim(public, backend)
        return f"{public.protocol}://{public.host}{self.port_of(public.protocol)}{public.path}"

    def check(self, public: Public) -> None:
        """Check that there is a port for a host name.

        :raises Refused: there is none.
        """
        if public.protocol not in self.listeners:
            text = f"the server has no {public.protocol.upper()} port (--{public.protocol}-listen)"
            raise Refused(Code.NOT_SUPPORTED, text)

    def port_of(self, protocol: str) -> str:
        """Return the port as URLs have it behind the host name: empty if it is the usual one, or unknown."""
        listener = self.listeners.get(protocol)
        port = getattr(listener.host, "port", None) if listener is not None else None
        return "" if port in (None, USUAL[protocol]) else f":{port}"

    async def stop_listening(self) -> None:
        """Accept no more connections."""
        for listener in self.listeners.values():
            await listener.stop_listening()
