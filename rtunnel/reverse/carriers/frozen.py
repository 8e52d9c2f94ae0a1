"""A data connection in use that another process goes on with, and the visitor's or service's socket beside it.

    LocalSocket <-> RecordSocket ---> two descriptors, and an object as JSON has it ---> LocalSocket <-> RecordSocket

Neither peer notices: nothing is sent, and nothing is closed, as the other process has copies of the descriptors.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from typing import Any

from rtunnel.relay import frozen as local_side
from rtunnel.relay.last_bytes import unacknowledged
from rtunnel.relay.local_socket import LocalSocket
from rtunnel.reverse.carriers.in_use import InUse, Pair
from rtunnel.reverse.carriers.record_interfaces import IUser
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.wire.data.frozen import Fields, State, text_of
from rtunnel.wire.data.seal import Cipher, Seal
from rtunnel.wire.limits import LinkLimits

#: The most that a relay has received or sent, in bytes.
MOST_COUNTED = 2**63 - 1
#: How many bytes the rest of a frozen pair takes as JSON, with its seals and whose it is.
REST = 2048


@dataclass(slots=True)
class Frozen:
    """What is left of a pair.

    :ivar state: as JSON has it.
    :ivar sockets: that of the data connection, and the local one, if there is one. Close them once others have them.
    """

    state: State
    sockets: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        """Close the copies of this process."""
        for each in self.sockets:
            each.close()


def can_freeze(connection: RecordSocket | None, local: LocalSocket | None) -> bool:
    """Return whether another process could go on with a :data:`Pair`."""
    if connection is None:
        return local is not None and local.far is None and local_side.can_freeze(local)
    if not connection.is_sound or connection.waiting > local_side.MOST_WAITING:
        return False
    if local is None:
        other = connection.local
        is_left = other is None or (isinstance(other, LocalSocket) and other.fileno() < 0)
        is_idle = connection.is_idle and not unacknowledged(connection.socket)
        return is_left and not connection.state.takes_data and not is_idle
    # Otherwise something is between the two, as where bytes are measured.
    return connection.local is local and local.far is connection and local_side.can_freeze(local)


def size_of(connection: RecordSocket | None, local: LocalSocket | None) -> int:
    """Return about how many bytes the two take as JSON."""
    waiting = 0 if local is None else local.waiting
    name = ""
    if connection is not None:
        waiting += connection.frozen_size
        name = connection.visitor
    # The other end has chosen the name, which stands there twice.
    return REST + 2 * len(json.dumps(name)) + waiting * 4 // 3


def freeze(connection: RecordSocket | None, local: LocalSocket | None) -> Frozen:
    """Take both out of use, if :func:`can_freeze` says so. Their users are not told."""
    left = Frozen({"connection": None, "local": None})
    if connection is not None:
        left.state["connection"] = connection.freeze()
        left.sockets.append(connection.socket)
    if local is not None:
        frozen = local.freeze()
        left.state["local"] = {**frozen, "waiting": text_of(frozen["waiting"])}
        left.sockets.append(local.socket)
    return left


def _read_local(frozen: Fields) -> dict[str, Any]:
    return {
        "waiting": frozen.data("waiting", local_side.MOST_WAITING),
        **{name: frozen.flag(name) for name in ("ending", "finished", "ended")},
        **{name: frozen.number(name, MOST_COUNTED) for name in ("received", "sent")},
    }


@dataclass(frozen=True, slots=True)
class Thawing:
    """What is needed to go on with frozen pairs.

    :ivar user: of the data connections.
    """

    poller: Any
    user: IUser
    limits: LinkLimits
    in_use: InUse
    is_server: bool

    def thaw(self, frozen: Fields, sockets: list[socket.socket], now: float) -> Pair:
        """Go on. Both sides rest until :func:`start` is called.

        :raises ValueError: this is nothing that :func:`freeze` has made. The sockets are not closed.
        :raises OSError: the system does not let us watch them.
        """
        values = _read_local(frozen.fields("local")) if frozen.has("local") else None
        has_connection = frozen.has("connection")
        if len(sockets) != has_connection + (values is not None):
            raise ValueError("a socket is missing")
        connection = None
        try:
            if has_connection:
                connection = self._thaw_connection(frozen.fields("connection"), sockets[0], now, values is not None)
            local = None
            if values is not None:
                use = self.in_use
                local = local_side.thaw(self.poller, sockets[-1], connection, use.on_end, use.kept, **values)
                if connection is not None:
                    connection.carry(local)
        except OSError:
            if connection is not None:
                connection.detach()
            raise
        return connection, local

    def _thaw_connection(self, frozen: Fields, sock: socket.socket, now: float, has_local: bool) -> RecordSocket:
        seals = [Seal.thaw(Fields(each), self.in_use.cipher) for each in frozen.all("seals")]
        if len(seals) != (0 if self.in_use.cipher is Cipher.NONE else 2):
            raise ValueError("the seals are missing")
        pair = (seals[0], seals[1]) if seals else None
        connection = RecordSocket(self.poller, sock, self.user, self.limits, now, pair, is_server=self.is_server)
        try:
            connection.thaw(frozen, local_side.MOST_WAITING)
            state = connection.state
            if state.is_free if has_local else state.takes_data:
                raise ValueError("a stream without its other side")
        except (ValueError, OSError):
            connection.detach()
            raise
        return connection


def start(connection: RecordSocket | None, local: LocalSocket | None) -> None:
    """Let both go on, now that they are counted."""
    if connection is not None:
        connection.go_on()
    if local is not None:
        local.go_on(has_room=connection is None or connection.has_room)
