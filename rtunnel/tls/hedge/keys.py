"""What a service needs for keys with hedges: see :mod:`rtunnel.wire.data.hedges`.

    client                                           server
      | the names of its hedges                        |
      |----------------------------------------------->|
      |                     the names of its hedges    |    the same, or nothing is carried: why_different
      |<-----------------------------------------------|
      | KEYS in pieces, from a thread: agree           |
      |----------------------------------------------->|
      |             KEYS in pieces, from a thread      |    answer; nobody is served before
      |<-----------------------------------------------|

Whatever the ends are called, the client is the one whose KEYS comes first.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from rtunnel.tls.hedge.threads import HedgeThreads
from rtunnel.wire.data.hedges import IHedge, KeyPieces, why_different
from rtunnel.wire.data.keys import (
    ClientAgreement,
    Root,
    ServerAgreement,
    answer,
    client_length,
    server_length,
    wish,
)


class Hedges:
    """The hedges of a process, which are those of all its links.

    :param reactor: in whose thread results arrive.
    :param names: in the order of :func:`~rtunnel.wire.data.hedges.ordered`; empty: there are none.
    :raises ConfigError: this machine cannot compute one of them.
    :ivar names: the same.
    """

    def __init__(self, reactor: Any, names: tuple[str, ...]) -> None:
        self.names = names
        self._kems: tuple[IHedge, ...] = ()
        self._threads = HedgeThreads(reactor)
        if names:
            from rtunnel.tls.hedge.liboqs import hedges

            self._kems = hedges(names)

    def __bool__(self) -> bool:
        return bool(self.names)

    def why_different(self, other: tuple[str, ...], *, is_client: bool, server: str = "server") -> str:
        """Return why nothing may be carried; empty: the other end has the same hedges.

        :param other: what the other end has announced; empty: nothing, or it knows no hedges.
        :param is_client: whether this end is the client.
        :param server: what to call the other one.
        """
        client_names, server_names = (self.names, other) if is_client else (other, self.names)
        return why_different(client_names, server_names, server)

    def client_pieces(self) -> KeyPieces:
        """Return what puts the client's KEYS together."""
        return KeyPieces(client_length(self.names))

    def server_pieces(self) -> KeyPieces:
        """Return what puts the server's KEYS together."""
        return KeyPieces(server_length(self.names))

    def agree(self) -> Deferred[ClientAgreement]:
        """Make the client's keys in a thread."""
        return self._threads.run(partial(ClientAgreement, wish(), self._kems))

    def respond(self, payload: bytes) -> Deferred[ServerAgreement]:
        """Make the server's keys in a thread, before there is an exporter; the root follows when it is there.

        :param payload: the client's KEYS. If it is malformed, the Deferred fails with :class:`ValueError`.
        """
        return self._threads.run(partial(ServerAgreement, payload, wish(), self._kems))

    def answer(self, payload: bytes, exported: bytes) -> Deferred[tuple[bytes, Root]]:
        """Make the server's keys in a thread; see :func:`~rtunnel.wire.data.keys.answer`."""
        return self._threads.run(partial(answer, payload, exported, wish(), self._kems))
