"""Listening sockets that a process hands to the one that takes its place, and that this one takes.

Both processes have the same socket then, so what connects meanwhile waits in the kernel's backlog and is not refused.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from twisted.internet.interfaces import IListeningPort


class Inheritance:
    """What is left of a predecessor's sockets, by name. A name says what the socket is for, and where it listens."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def fill(self, names: Iterable[str], sockets: Iterable[socket.socket]) -> None:
        """Take sockets from the predecessor."""
        self._sockets.update(zip(names, sockets, strict=True))

    def take(self, name: str) -> socket.socket | None:
        """Return a socket, which belongs to the caller then; None: there is none of that name."""
        return self._sockets.pop(name, None)

    def take_all(self, kind: str) -> list[socket.socket]:
        """Return those whose names begin with *kind*; see :meth:`take`."""
        return [self._sockets.pop(name) for name in list(self._sockets) if name.startswith(kind)]

    def __len__(self) -> int:
        return len(self._sockets)

    def close(self, but: str | None = None) -> None:
        """Close what nobody has taken.

        :param but: how the names of those begin that stay; None: none do.
        """
        for name in list(self._sockets):
            if but is None or not name.startswith(but):
                self._sockets.pop(name).close()


#: That of this process; empty unless it takes the place of another.
inheritance = Inheritance()


def adopt(reactor: Any, sock: socket.socket, factory: Any) -> Any:
    """Let *sock*, which a predecessor has bound, be a port of the reactor. Return the port."""
    port: Any = reactor.adoptStreamPort(sock.fileno(), sock.family, factory)
    sock.close()  # the port has a copy
    return port


def may_be_handed(port: object) -> bool:
    """Return whether a successor can take a port: one of TCP, with nothing of Twisted's between it and us."""
    from twisted.internet import tcp

    return type(port) is tcp.Port


class Handed:
    """A socket that a successor gets.

    :param name: see :class:`Inheritance`.
    :param port: listens for TCP; None: it is UDP, which waits for nobody.
    """

    def __init__(self, name: str, descriptor: int, port: IListeningPort | None = None) -> None:
        self.name = name
        self.descriptor = descriptor
        self._port: Any = port

    def pause(self) -> None:
        """Accept nothing for a moment."""
        if self._port is not None:
            self._port.stopReading()

    def resume(self) -> None:
        """Accept again."""
        if self._port is not None and self._port.connected and not self._port.socket.refuses:
            self._port.startReading()

    def hand_over(self) -> None:
        """Once the port is closed here, let the socket listen on for the successor."""
        if self._port is not None:
            self._port._shouldShutdown = False
