"""Relays between real connections, on a real reactor. The test controls the far ends.

left <-> LocalSocket <-> RecordSocket ==== RecordSocket <-> LocalSocket <-> right
                         server            client
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pytest

from rtunnel.relay.local_socket import LocalSocket
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.wire.data.connection import Opened
from rtunnel.wire.data.seal import Cipher, Seal
from rtunnel.wire.limits import LinkLimits
from tests.relay.turns import Far, Turns, connected, random_bytes

#: Ways of turning with plain records, see Turns.
SIDES = pytest.mark.parametrize("side", ["left", "right"])


PLAIN = ("running", "epoll", "running watch", "epoll watch")


def seals(*, is_server: bool) -> tuple[Seal, Seal]:
    """What an end seals with, and what it opens with."""
    secrets = (b"s" * 32, b"c" * 32)
    mine, theirs = secrets if is_server else secrets[::-1]
    return Seal(mine, Cipher.AES_256_GCM), Seal(theirs, Cipher.AES_256_GCM)


class Visit:
    """One stream, with its two local sockets.

    :param kind: ``tcp`` or ``unix``; or one for each side, with a space.
    :ivar ends: those of the two that have closed.
    """

    def __init__(self, pair: Pair, kind: str, buffers: int) -> None:
        left_kind, _, right_kind = kind.partition(" ")
        left, self.inner_left = connected(left_kind, buffers)
        right, self.inner_right = connected(right_kind or left_kind, buffers)
        for inner in (self.inner_left, self.inner_right):
            inner.setblocking(False)
        self.left, self.right = Far(left), Far(right)
        self.fars = (self.left, self.right)
        self.ends: list[LocalSocket] = []
        self.kept: list[int] = []
        self.on_kept: Callable[[], None] = lambda: None
        poller = pair.turns.relays
        self.near_left = LocalSocket(poller, self.inner_left, pair.server, self.ends.append, self._keep)
        self.near_right = LocalSocket(poller, self.inner_right, pair.client, self.ends.append, self._keep)

    def _keep(self, count: int) -> None:
        self.kept.append(count)
        self.on_kept()

    @property
    def nears(self) -> tuple[LocalSocket, LocalSocket]:
        return self.near_left, self.near_right

    def abort(self) -> None:
        for near in self.nears:
            near.abort()

    def close(self) -> None:
        self.abort()
        for far in self.fars:
            far.socket.close()
        assert sorted(map(id, self.ends)) == sorted(map(id, self.nears))


class Pair:
    """The two ends of a data connection, which give each visit that the test opens its local sockets.

    :ivar told: what the two ends have told their users.
    """

    def __init__(self, turns: Turns, buffers: int = 0) -> None:
        self.turns = turns
        self.told: list[tuple[str, str]] = []
        self.held: list[int] = []
        self.visits: list[Visit] = []
        self.limits = LinkLimits()
        ends = connected("tcp", buffers)
        for sock in ends:
            sock.setblocking(False)
        self.server, self.client = (
            RecordSocket(
                turns.relays,
                sock,
                self,
                self.limits,
                0.0,
                seals(is_server=is_server) if turns.sealed else None,
                is_server=is_server,
            )
            for sock, is_server in zip(ends, (True, False), strict=True)
        )
        self.both = (self.server, self.client)
        for end in self.both:
            end.prove()
        self.on_opened: Callable[[Opened], None] = self.serve
        self.on_freed: Callable[[RecordSocket], None] = lambda _end: None

    def side(self, connection: RecordSocket) -> str:
        return "server" if connection is self.server else "client"

    # See IUser

    def proved(self, connection: RecordSocket) -> None:
        self.told.append((self.side(connection), "proved"))

    def opened(self, connection: RecordSocket, opened: Opened) -> None:
        assert connection is self.client
        self.on_opened(opened)

    def serve(self, opened: Opened) -> None:
        near = self.visits[opened.tunnel].near_right
        self.client.carry(near)
        near.start()

    def freed(self, connection: RecordSocket) -> None:
        assert connection.fileno() >= 0
        assert connection.is_idle
        self.told.append((self.side(connection), "freed"))
        self.on_freed(connection)

    def holds(self, count: int) -> None:
        self.held.append(count)

    def lost(self, connection: RecordSocket, why: str, *, is_breach: bool) -> None:
        assert connection.fileno() < 0
        self.told.append((self.side(connection), "breach" if is_breach else "lost"))

    # Visits

    @property
    def is_free(self) -> bool:
        return self.told.count(("server", "freed")) == len(self.visits)

    def open(self, kind: str = "tcp", buffers: int = 0) -> Visit:
        """Open a stream, whose number is its tunnel's plus one."""
        visit = Visit(self, kind, buffers)
        self.visits.append(visit)
        self.server.open(len(self.visits) - 1, "", 0, visit.near_left)
        visit.near_left.start()
        return visit

    async def until(self, condition: Callable[[], object], *fars: Far) -> None:
        await self.turns.until(condition, *fars)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for visit in self.visits:
            visit.close()
        for end in self.both:
            end.cut()


class Rig(Pair, Visit):
    """A pair with one visit."""

    def __init__(self, turns: Turns, kind: str = "tcp", buffers: int = 0, *, start: bool = True) -> None:
        Pair.__init__(self, turns, buffers)
        Visit.__init__(self, self, kind, buffers)
        self._starts = start

    def start(self) -> None:
        self.visits.append(self)
        self.server.open(0, "", 0, self.near_left)
        self.near_left.start()

    async def __aenter__(self) -> Self:
        if self._starts:
            self.start()
            await self.turns.until(lambda: self.client.state.number)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        for end in self.both:
            end.cut()

    async def until(self, condition: Callable[[], object], *fars: Far) -> None:
        await self.turns.until(condition, *(fars or self.fars))

    async def settle(self) -> None:
        await self.turns.settle(*self.fars)

    async def until_over(self) -> None:
        await self.until(lambda: len(self.ends) == 2 and self.left.is_over and self.right.is_over)


class Recording:
    """Stands for the socket of *end* from now on.

    :ivar sent: what each call of ``send`` has sent.
    """

    def __init__(self, end: Any) -> None:
        self._socket = end.socket
        self.sent: list[bytes] = []
        end.socket = self

    def send(self, data: Any, *flags: int) -> int:
        count: int = self._socket.send(data, *flags)
        self.sent.append(bytes(data[:count]))
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def far_ends(rig: Any, side: str) -> tuple[Far, Far]:
    """Return the far end on *side*, and the other one."""
    return (rig.left, rig.right) if side == "left" else (rig.right, rig.left)


async def answer_each_other(pair: Pair, left: Far, right: Far, size: int) -> None:
    """Send bytes both ways, and end both directions."""
    there, back = random_bytes(size, 1), random_bytes(size, 2)
    left.send(there, end=True)
    right.send(back, end=True)
    await pair.until(lambda: left.is_over and right.is_over, left, right)
    assert right.got(there)
    assert left.got(back)
    assert left.ended
    assert right.ended
