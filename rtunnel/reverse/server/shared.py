"""The shared public port, whose visitors go to any client that serves port 0."""

from __future__ import annotations

from typing import Any

from twisted.application.service import MultiService

from rtunnel.access.public import SHARED
from rtunnel.addresses import ListenAddress
from rtunnel.errors import Code, Refused
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.held import Lobby
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.ports import VisitorFactory
from rtunnel.reverse.server.refusals import Refusals
from rtunnel.reverse.settings import ServerSettings
from rtunnel.upkeep.listening import Listener, moved


class SharedPort:
    """The port, which is closed while nobody serves it.

    :param lobby: for visitors who wait.
    :param refusals: tells who is turned away.
    :ivar group: those who serve it.
    :ivar listener: None: there is no such port.
    """

    def __init__(self, reactor: Any, settings: ServerSettings, lobby: Lobby, refusals: Refusals) -> None:
        self.group = Group(reactor, SHARED, lobby, refusals, self._close, settings.route)
        self._reactor = reactor
        self._visitors = VisitorFactory(lobby.visitors, self.group)
        self.listener = self._build(settings.public_listen) if settings.public_listen is not None else None

    def _build(self, address: ListenAddress) -> Listener:
        what, option = "shared public port", "--public-listen"
        return Listener(self._reactor, address, self._visitors, what, option, is_open=False)

    async def move(self, address: ListenAddress | None, parent: MultiService) -> None:
        """Listen elsewhere, or nowhere: then whoever serves the port loses it.

        :raises StartupError: it cannot listen there, so nothing changes.
        """
        self.listener = await moved(self.listener, address, self._build, parent)
        if self.listener is None:
            why = Refused(Code.NO_SHARED_PORT, "the server has no shared public port any more")
            for backend in list(self.group):
                backend.session.revoke_tunnel(backend, why)

    def check(self, backend: Backend) -> None:
        """Check whether *backend* can serve the port, as far as its client itself is concerned.

        :raises Refused: it cannot.
        """
        if not backend.is_elsewhere and any(other.group is self.group for other in backend.session.backends.values()):
            raise Refused(Code.PORT_IN_USE, "this client serves the shared port already")
        if backend.rules.group:
            raise Refused(Code.BAD_REQUEST, "the shared port is everybody's, and takes no group")

    def open(self, backend: Backend) -> str:
        """Let *backend* serve the port. Return its address. Only where there is one.

        :raises Refused: the system does not let us listen again.
        """
        assert self.listener is not None
        try:
            self.listener.accept()
        except OSError as error:
            text = f"the shared public port {self.listener.local_address}: {error.strerror or error}"
            raise Refused(Code.PORT_UNAVAILABLE, text) from None
        self.group.join(backend)
        backend.public = SHARED
        return self.listener.local_address

    def expect(self, hold: float) -> None:
        """Let visitors wait, if a predecessor has left the port open; see :meth:`Group.expect`."""
        if self.listener is not None and self.listener.is_open:
            self.group.expect((), hold)

    def _close(self, _group: Group) -> None:
        if self.listener is not None:
            self.listener.refuse()

    async def stop_listening(self) -> None:
        """Accept no more visitors, and turn away those that wait."""
        if self.listener is not None:
            await self.listener.stop_listening()
        self.group.end()
