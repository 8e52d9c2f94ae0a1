"""What one link has in use, or has left, with which another process could go on; see :mod:`rtunnel.reverse.stored`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rtunnel.relay.local_socket import LocalSocket
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.wire.data.seal import Cipher

#: A data connection in use, and the local side of its stream. None: that has nothing more to do, and the other one
#: still sends its last bytes.
Pair = tuple[RecordSocket | None, LocalSocket | None]


@dataclass(slots=True, eq=False)
class InUse:
    """Data connections, and the local sides of their streams.

    :ivar cipher: of the records.
    :ivar on_end: called with a local side that is over.
    :ivar kept: called with the number of bytes that are kept.
    :ivar on_release: called when there are fewer, without any being over.
    :ivar relays: the local sides, those included with which no other process could go on.
    :ivar connections: at the client, also those that wait.
    """

    cipher: Cipher
    on_end: Callable[[Any], None]
    kept: Callable[[int], None]
    on_release: Callable[[], None]
    relays: dict[Any, None] = field(default_factory=dict)
    connections: dict[RecordSocket, None] = field(default_factory=dict)

    def release(self, pair: Pair) -> None:
        """Forget a pair with which another process goes on."""
        connection, local = pair
        if connection is not None:
            self.connections.pop(connection, None)
        if local is not None:
            self.relays.pop(local, None)
        self.on_release()

    def add(self, pair: Pair) -> None:
        """Go on with a pair."""
        connection, local = pair
        if connection is not None:
            self.connections[connection] = None
            self.kept(connection.held)
        if local is not None:
            self.relays[local] = None
            self.kept(local.held)
