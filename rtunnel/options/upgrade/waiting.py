"""Visitors who wait at the old process for a client: the new one has them from now on, as the client will come there.

    old -> new    a message for each, with his socket; see :mod:`rtunnel.reverse.stored.held`

An old process that cannot do this has no such socket, and a new one that cannot closes it: then they are reset.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from rtunnel.access.public import Public
from rtunnel.options.upgrade.channel import Broken, Channel
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.stored.held import release, wait_on, write
from rtunnel.wire.data.frozen import Fields

#: The name of the socket, and the seconds that the other process may take for one visitor. Its reactor runs.
WAITING, PATIENCE = "waiting", 5.0


class Sender:
    """The old process's end.

    :ivar theirs: the new process's end, until that has it.
    :raises OSError: there is no room for them.
    """

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self._channel = Channel(ours)

    def send(self, public: Public, visitor: Visitor, left: float | None) -> bool:
        """See :data:`~rtunnel.reverse.server.held.Heir`."""
        state = write(public, visitor, left)
        if state is None:
            return False
        try:
            self._channel.send(state, [visitor.fileno()], PATIENCE)
        except Broken:
            self.close()
            return False
        release(visitor).close()
        return True

    def close(self) -> None:
        """Send nobody."""
        self.theirs.close()
        self._channel.close()


@implementer(IReadDescriptor)
class Receiver:
    """The new process's end."""

    def __init__(self, server: TunnelServer, sock: socket.socket) -> None:
        self._server = server
        self._number = sock.fileno()
        self._channel = Channel(sock)
        server.reactor.addReader(self)

    def fileno(self) -> int:
        """See :class:`IReadDescriptor`."""
        return self._number

    def logPrefix(self) -> str:
        """See :class:`IReadDescriptor`."""
        return "visitors who wait"

    def doRead(self) -> None:
        """Take a visitor, or the end of the old process."""
        try:
            state = self._channel.receive(PATIENCE)
            [sock] = self._channel.receive_sockets(1, PATIENCE)
        except Broken:
            self.connectionLost(None)
        else:
            wait_on(self._server, Fields(state), sock)

    def connectionLost(self, reason: Any) -> None:
        """See :class:`IReadDescriptor`."""
        self._server.reactor.removeReader(self)
        self._channel.close()
