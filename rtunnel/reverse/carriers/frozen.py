"""A data connection in use that another process goes on with, and the visitor's or service's socket beside it.

    LocalSocket <-> RecordSocket ---> two descriptors, and an object as JSON has it ---> LocalSocket <-> RecordSocket

Neither peer notices: nothing is sent, and nothing is closed, as the other process has copies of the descriptors.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rtunnel.relay import frozen as local_side
from rtunnel.relay.local_socket import LocalSocket
from rtunnel.reverse.carriers.record_socket import IUser, RecordSocket
from rtunnel.wire.data.frozen import Fields, State, text_of
from rtunnel.wire.data.records import SealedReader
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


def can_freeze(connection: RecordSocket, local: LocalSocket | None) -> bool:
    """Return whether another process could go on with both.

    :param local: None: nothing is left on this side, and the connection is in use all the same.
    """
    works = connection.fileno() >= 0 and connection.is_proved and not connection._is_broken
    if not works or connection.waiting > local_side.MOST_WAITING:
        return False
    if local is None:
        other = connection._local
        is_left = other is None or (isinstance(other, LocalSocket) and other.fileno() < 0)
        return is_left and not connection.state.takes_data and not connection.is_idle
    # Otherwise something is between the two, as where bytes are measured.
    return connection._local is local and local.far is connection and local_side.can_freeze(local)


def size_of(connection: RecordSocket, local: LocalSocket | None) -> int:
    """Return about how many bytes the two take as JSON."""
    waiting = connection.waiting + connection._reader.held + (0 if local is None else local.waiting)
    return REST + waiting * 4 // 3


def freeze(connection: RecordSocket, local: LocalSocket | None) -> Frozen:
    """Take both out of use, if :func:`can_freeze` says so. Their users are not told."""
    reader = connection._reader
    seals = [connection._seal, reader._seal] if isinstance(reader, SealedReader) else []
    state: State = {
        "name": connection._visitor,
        "seals": [seal.freeze() for seal in seals if seal is not None],
        "connection": connection.state.freeze(),
        "reader": reader.freeze(),
        "waiting": text_of(local_side.take_waiting(connection)),
        "local": None,
    }
    sockets = [connection.socket]
    if local is not None:
        frozen = local_side.freeze(local)
        state["local"] = {**frozen, "waiting": text_of(frozen["waiting"])}
        sockets.append(local.socket)
    connection._local = None
    local_side.detach(connection)
    return Frozen(state, sockets)


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
    :ivar on_end: called with a local side that is over.
    :ivar kept: called with the number of bytes that are kept.
    """

    poller: Any
    user: IUser
    limits: LinkLimits
    cipher: Cipher
    on_end: Callable[[LocalSocket], None]
    kept: Callable[[int], None]
    is_server: bool

    def thaw(
        self, frozen: Fields, sock: socket.socket, local_sock: socket.socket | None, now: float
    ) -> tuple[RecordSocket, LocalSocket | None]:
        """Go on. Both sides rest until :func:`start` is called.

        :raises ValueError: this is nothing that :func:`freeze` has made. The sockets are not closed.
        :raises OSError: the system does not let us watch them.
        """
        seals = [Seal.thaw(Fields(each), self.cipher) for each in frozen.all("seals")]
        if len(seals) != (0 if self.cipher is Cipher.NONE else 2):
            raise ValueError("the seals are missing")
        waiting = frozen.data("waiting", local_side.MOST_WAITING)
        name = frozen.text("name")
        values = _read_local(frozen.fields("local")) if frozen.has("local") else None
        if (values is None) is not (local_sock is None):
            raise ValueError("a socket is missing")
        pair = (seals[0], seals[1]) if seals else None
        connection = RecordSocket(self.poller, sock, self.user, self.limits, now, pair, is_server=self.is_server)
        try:
            state = connection.state
            state.thaw(frozen.fields("connection"))
            connection._reader.thaw(frozen.fields("reader"))
            if state.is_free if values is not None else state.takes_data or (state.is_free and not waiting):
                raise ValueError("a stream without its other side")
            connection.prove()
            connection._visitor, connection._told_free = name, False
            if waiting:
                connection._append(waiting)
            local = None
            if values is not None:
                local = local_side.thaw(self.poller, local_sock, connection, self.on_end, self.kept, **values)
                connection.carry(local)
        except (ValueError, OSError):
            local_side.detach(connection)
            raise
        return connection, local


def start(connection: RecordSocket, local: LocalSocket | None) -> None:
    """Let both go on, now that they are counted."""
    if local is None:
        return
    # The other end has heard nothing for a while.
    connection.say_alive()
    local_side.start(local, has_room=connection.has_room)
