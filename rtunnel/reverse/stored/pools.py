"""Data connections of one link that are put away for the next process, and those with which this one goes on.

pairs_of() -> put() ------------ JSON and descriptors ------------> take()
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from os import fstat
from typing import Any, Protocol

from rtunnel.relay.local_socket import LocalSocket
from rtunnel.reverse.carriers import frozen
from rtunnel.reverse.carriers.frozen import Frozen, Thawing
from rtunnel.reverse.carriers.in_use import InUse, Pair
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.upkeep.visitors import Counted, Visitors
from rtunnel.wire.data.frozen import Fields, State

#: The most descriptors that one visitor can have, and the longest name in what is put away.
MOST_DESCRIPTORS = 64
#: What reading garbage can raise.
GARBAGE = (ValueError, TypeError, LookupError, OverflowError)


def pairs_of(in_use: InUse) -> Iterator[Pair]:
    """Yield what another process can go on with."""
    for local in in_use.relays:
        if isinstance(local, LocalSocket):
            connection = local.far
            if (connection is None or isinstance(connection, RecordSocket)) and frozen.can_freeze(connection, local):
                yield connection, local
    for connection in in_use.connections:
        if frozen.can_freeze(connection, None):
            yield connection, None


class IOwners(Protocol):
    """How the owners of visitors are written down, and read."""

    def write(self, owner: Any) -> State: ...
    def read(self, state: Fields) -> Any: ...


@dataclass(frozen=True, slots=True)
class Times:
    """The clock by which visits are counted, and that of the wall, which both processes have.

    :param seconds: of the first one.
    :param wall: seconds since the epoch.
    """

    seconds: Callable[[], float]
    wall: Callable[[], float]

    def to_wall(self, began: float) -> float:
        """Return when something began, as another process understands it."""
        return self.wall() - (self.seconds() - began)

    def from_wall(self, began: float) -> float:
        """Return when something began that :meth:`to_wall` has given. Nothing begins later than now."""
        return self.seconds() - max(0.0, self.wall() - began)


def put(pair: Pair, visitors: Visitors, owners: IOwners, times: Times) -> Frozen | None:
    """Take a pair out of use, and no longer count the visitor here. None: he was told to give way."""
    connection, local = pair
    counted = None
    if local is not None:
        found = visitors.counted(local)
        if found is None:
            return None
        counted = {
            **{name: getattr(found, name) for name in ("address", "count", "client", "tunnel", "who", "carrier")},
            "owner": owners.write(found.owner),
            "began": times.to_wall(found.began),
        }
    left = frozen.freeze(connection, local)
    if local is not None:
        visitors.release(local)
    left.state["counted"] = counted
    return name_sockets(left)


def name_sockets(left: Frozen) -> Frozen:
    """Let the state say which sockets it is about; see :meth:`Sockets.take`."""
    # The number of a socket stays the same in any process.
    left.state["sockets"] = [str(fstat(each.fileno()).st_ino) for each in left.sockets]
    return left


class Sockets:
    """The sockets that have come from the other process, by their numbers."""

    def __init__(self, sockets: Mapping[int, socket.socket]) -> None:
        self._sockets = dict(sockets)

    def take(self, names: list[Any]) -> list[socket.socket]:
        """Return these sockets, which belong to the caller then; see :meth:`close` for the others.

        :raises ValueError: one of them is not there.
        """
        numbers = [int(each) for each in names]
        if not 1 <= len(set(numbers)) == len(numbers) <= 2:
            raise ValueError("neither one socket nor two")
        if not all(number in self._sockets for number in numbers):
            raise ValueError("a socket is missing")
        return [self._sockets.pop(number) for number in numbers]

    def close(self) -> None:
        """Close those that nobody has taken."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _read_counted(state: Fields, owners: IOwners, times: Times) -> Counted:
    client, tunnel, who, carrier = (state.text(name) for name in ("client", "tunnel", "who", "carrier"))
    owner, count = owners.read(state.fields("owner")), state.number("count", MOST_DESCRIPTORS)
    began = times.from_wall(state.seconds("began"))
    return Counted(state.text("address"), owner, count, client, tunnel, who, carrier, began)


def take(state: Fields, sockets: Sockets, thawing: Thawing, visitors: Visitors, owners: IOwners, times: Times) -> Pair:
    """Go on with a pair that :func:`put` has put away. The caller lets it :func:`~frozen.start`.

    :raises ValueError: that cannot be. Its sockets are closed.
    """
    taken = sockets.take(state.all("sockets"))
    try:
        counted = _read_counted(state.fields("counted"), owners, times) if state.has("counted") else None
        if (counted is None) is state.has("local"):
            raise ValueError("a visitor is missing")
        connection, local = thawing.thaw(state, taken, times.seconds())
    except (*GARBAGE, OSError) as error:
        for each in taken:
            with suppress(OSError):
                each.close()
        raise ValueError(str(error)) from error
    if local is not None and counted is not None:
        visitors.resume(local, counted)
    return connection, local
