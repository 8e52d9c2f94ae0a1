"""Visitors who wait for a client, and go on waiting in another process: beside this one, or the one that follows.

    HeldVisitor --> write() --- JSON and a descriptor ---> wait_on() --> HeldVisitor, at the same place

Only bare sockets can go there, and nothing is sent or closed. What was read of them goes with them.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from rtunnel.access.public import Public
from rtunnel.relay.sockets import RESET_ON_CLOSE, SEND_ON_CLOSE, close_socket, set_linger
from rtunnel.reverse.public import Visitor
from rtunnel.wire.data.frozen import Fields, State

if TYPE_CHECKING:
    from rtunnel.reverse.server.service import TunnelServer

_log = Logger()


def write_place(public: Public) -> list[Any]:
    """Return a place as JSON has it."""
    return [public.port, public.protocol, public.host, public.path]


def read_place(place: list[Any]) -> Public:
    """Return what :func:`write_place` was given.

    :raises ValueError: this is not from it.
    """
    port, *texts = place
    if len(texts) != 3 or not (port is None or type(port) is int) or not all(isinstance(each, str) for each in texts):
        raise ValueError("a place that cannot be")
    return Public(port, *texts)


def write(public: Public, visitor: Visitor, left: float | None) -> State | None:
    """Return what another process must know of a visitor; None: it cannot go on with him.

    The parameters are those of :data:`~rtunnel.reverse.server.held.Heir`.
    """
    state = visitor.freeze()
    return None if state is None else {**state, "place": write_place(public), "left": left}


def release(visitor: Visitor) -> socket.socket:
    """Return the socket of a visitor, which is to be closed once another process has it."""
    sock = visitor.release()
    # If that process does not get it, this is no end of what he was to get.
    set_linger(sock, RESET_ON_CLOSE)
    return sock


def wait_on(server: TunnelServer, state: Fields, sock: socket.socket) -> bool:
    """Let a visitor wait here. Return False if he cannot: he is closed."""
    try:
        group = server.group_of(read_place(state.all("place")))
        left = state.seconds("left") if state.has("left") else None
        visitor = Visitor.thaw(state, sock, server.reactor, server.visitors.discard)
        set_linger(sock, SEND_ON_CLOSE)
        if group is not None and group.take_back(visitor, left):
            return True
        why: object = "nobody is waited for there"
    except (ValueError, OSError) as error:
        why = error
    _log.info("a visitor who has waited in another process is closed: {why}", why=why)
    close_socket(sock, reset=True)
    return False
