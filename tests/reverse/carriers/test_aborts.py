"""Thousands of visitors, one after the other on a few data connections, who leave at every moment: no byte of one ever
reaches another.
"""

from __future__ import annotations

import random
import socket
from collections import Counter

import pytest
from twisted.internet.task import Clock

from rtunnel.errors import Code
from rtunnel.relay.local_socket import LocalSocket
from rtunnel.relay.pipes import PIPES
from rtunnel.relay.poller import Poller
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.wire.data.connection import Opened
from rtunnel.wire.limits import LinkLimits
from tests.relay.turns import close_idle, open_descriptors
from tests.reverse.carriers.rig import seals

VISITORS = 2500
CONNECTIONS = 8
#: What visitors and services send: each a part of this that begins elsewhere.
BYTES = random.Random(7).randbytes(1 << 20) * 2
SIZES = (1, 20, 500, 5000, 60_000, 300_000)


class Loop(Clock):
    """The part of a reactor that a poller and relays use."""

    def addReader(self, _reader: object) -> None: ...
    def removeReader(self, _reader: object) -> None: ...


class FarEnd:
    """A visitor, or a service: it sends a part of :data:`BYTES`, and checks that it receives the other's."""

    def __init__(self, sock: socket.socket, sends_from: int, receives_from: int, size: int) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._left = memoryview(BYTES)[sends_from : sends_from + size]
        self._receives_from = receives_from
        self.received = 0
        self.ended = self._has_ended = self._is_gone = False

    @property
    def is_over(self) -> bool:
        return self._is_gone or (self.ended and self._has_ended)

    def step(self) -> None:
        try:
            if self._left:
                self._left = self._left[self.socket.send(self._left) :]
            elif not self._has_ended:
                self._has_ended = True
                self.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._left = memoryview(b"")
        if self.ended:
            return
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self._is_gone = True
            return
        start = self._receives_from + self.received
        assert data == BYTES[start : start + len(data)], "bytes of somebody else"
        self.received += len(data)
        self.ended = not data

    def leave(self) -> None:
        self._is_gone = True
        self.socket.close()


class Visit:
    """A visitor, from its first byte to its last.

    :ivar was_left: somebody has left before the end.
    """

    def __init__(self, world: World, chance: random.Random, server: RecordSocket, client: RecordSocket) -> None:
        starts = chance.randrange(1 << 19), chance.randrange(1 << 19)
        self.sizes = chance.choice(SIZES), chance.choice(SIZES)
        (left, inner_left), (right, inner_right) = socket.socketpair(), socket.socketpair()
        for inner in (inner_left, inner_right):
            inner.setblocking(False)
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        self.left = FarEnd(left, starts[0], starts[1], self.sizes[0])
        self.right = FarEnd(right, starts[1], starts[0], self.sizes[1])
        self.near_left = LocalSocket(world.poller, inner_left, server, self._closed)
        self.near_right = LocalSocket(world.poller, inner_right, client, self._closed)
        self.open = 2
        self.was_left = False
        self._client = client
        actions = [self.left.leave, self.right.leave, self.near_left.abort, self.near_right.abort, self._refuse]
        # Most leave; some of them twice.
        self._plan = [(chance.randrange(12), chance.choice(actions)) for _ in range(chance.choice((0, 1, 1, 1, 2)))]
        self._age = 0

    def _closed(self, _near: LocalSocket) -> None:
        self.open -= 1

    def _refuse(self) -> None:
        """Reset the stream at the client, as if there was no service."""
        if self.near_right.far is not None and self.near_right.fileno() >= 0:
            self.near_right._leave_far(Code.LIMIT, "no", behind=False)
            self.near_right.close(reset=True)

    def step(self) -> None:
        for age, action in self._plan:
            if age == self._age:
                self.was_left = True
                action()
        self._age += 1
        for far in (self.left, self.right):
            if not far.is_over:
                far.step()

    @property
    def is_over(self) -> bool:
        return not self.open and self.left.is_over and self.right.is_over

    def check(self) -> None:
        """Whoever was not left got everything, and an end."""
        if not self.was_left:
            assert self.left.ended
            assert self.right.ended
            assert (self.right.received, self.left.received) == self.sizes

    def close(self) -> None:
        for far in (self.left, self.right):
            far.socket.close()


class World:
    """Connections, and the visitors on them. It is the user of both ends of all."""

    def __init__(self, chance: random.Random, *, sealed: bool) -> None:
        self.loop = Loop()
        self.poller = Poller(self.loop)
        self.chance = chance
        self.visits: list[Visit] = []
        self.told: Counter[str] = Counter()
        self.opened_count = 0
        self._sealed = sealed
        self._others: dict[RecordSocket, RecordSocket] = {}
        self._present: dict[RecordSocket, Visit] = {}

    def connect(self) -> None:
        sockets = socket.socketpair()
        for one in sockets:
            one.setblocking(False)
        server, client = (
            RecordSocket(
                self.poller,
                one,
                self,
                LinkLimits(),
                0.0,
                seals(is_server=is_server) if self._sealed else None,
                is_server=is_server,
            )
            for one, is_server in zip(sockets, (True, False), strict=True)
        )
        self._others |= {server: client, client: server}
        for end in (server, client):
            end.prove()
        self.open(server)

    def open(self, server: RecordSocket) -> None:
        if self.opened_count < VISITORS:
            self.opened_count += 1
            client = self._others[server]
            visit = Visit(self, self.chance, server, client)
            self.visits.append(visit)
            self._present[client] = visit
            server.open(0, "", 0, visit.near_left)
            visit.near_left.start()

    # See IUser

    def proved(self, connection: RecordSocket) -> None: ...

    def opened(self, connection: RecordSocket, opened: Opened) -> None:
        near = self._present[connection].near_right
        if near.fileno() < 0:
            connection.reset(Code.LIMIT, "gone already")
        else:
            connection.carry(near)
            near.start()

    def freed(self, connection: RecordSocket) -> None:
        assert connection.is_idle
        if connection.state.can_open and connection.state.is_server:
            self.told["freed"] += 1
            self.open(connection)

    def holds(self, count: int) -> None:
        """Nobody asks."""

    def lost(self, connection: RecordSocket, why: str, *, is_breach: bool) -> None:
        assert not is_breach, why
        self.told["lost"] += 1
        other = self._others.pop(connection)
        if other not in self._others:
            # A stream that was aborted while bytes waited took its connection with it.
            near = self._present[connection if connection in self._present else other].near_right
            near.abort()
            self.connect()

    def run(self) -> None:
        for _ in range(CONNECTIONS):
            self.connect()
        quiet = 0
        while self.visits or self.opened_count < VISITORS:
            self.poller.doRead()
            self.loop.advance(0.01)
            before = len(self.visits)
            for visit in self.visits:
                visit.step()
            for visit in [visit for visit in self.visits if visit.is_over]:
                visit.check()
                visit.close()
                self.visits.remove(visit)
            quiet = quiet + 1 if len(self.visits) == before else 0
            assert quiet < 50_000, "nothing moves any more"

    def close(self) -> None:
        for end in list(self._others):
            end.cut()
        for visit in self.visits:
            visit.near_left.abort()
            visit.near_right.abort()
            visit.close()
        assert len(self.poller) == 0
        self.poller._epoll.close()


@pytest.mark.usefixtures("steady_descriptors")
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_visitors_who_leave_at_every_moment(sealed: bool) -> None:
    close_idle(PIPES)
    before = open_descriptors()
    # In each run at other moments.
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    world = World(random.Random(seed), sealed=sealed)
    try:
        world.run()
    finally:
        world.close()
    close_idle(PIPES)
    assert PIPES.in_use == 0
    assert open_descriptors() == before
    assert world.told["freed"] + world.told["lost"] // 2 >= VISITORS - CONNECTIONS
    # Enough of either kind.
    assert world.told["freed"] > VISITORS // 2
    assert world.told["lost"] > VISITORS // 100
