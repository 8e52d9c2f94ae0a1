"""How fast what a peer of the signaling server sends is handled, by a clock that the test moves."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from rtunnel.rtc.signaling.pace import ADDRESS_BURST, ADDRESS_SHARE, BURST, BYTES, CONNECTION, PIECE, SHARE, Pace, Paces


class World:
    """The time, and how much of the processor's has gone."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.used = 0.0
        self.paces = Paces(self.clock, lambda: self.used)


class Connection:
    """A connection, what has been handled of it, and what that costs."""

    def __init__(self, world: World, key: str = "192.0.2.1", cost: float = 0.0) -> None:
        self.world = world
        self.cost = cost
        self.handled = bytearray()
        self.transport = StringTransport()
        self.pace = Pace(world.paces, key, self.transport, self.handle)

    def handle(self, data: bytes) -> None:
        self.handled += data
        self.world.used += self.cost

    @property
    def is_read(self) -> bool:
        return self.transport.producerState == "producing"


@pytest.fixture
def world() -> World:
    return World()


def handled_by(world: World, connections: list[Connection], seconds: float) -> float:
    """Each sends whenever it is read, as the reactor lets it; what that costs."""
    before = world.used
    for _ in range(int(seconds * 4)):
        world.clock.advance(0.25)
        world.paces.go_on()
        for connection in connections:
            while connection.is_read:
                connection.pace.received(b"x" * PIECE)
    return world.used - before


def test_what_costs_little_is_handled_at_once(world: World) -> None:
    connection = Connection(world)
    for number in range(10):
        connection.pace.received(b"%d" % number)
    assert connection.handled == b"0123456789"
    assert connection.is_read


def test_the_share_of_one_address(world: World) -> None:
    """Several connections have it together."""
    connections = [Connection(world, cost=0.01) for _ in range(3)]
    used = handled_by(world, connections, 100)
    assert 0.8 * 100 * ADDRESS_SHARE < used < ADDRESS_BURST + 101 * ADDRESS_SHARE


def test_nothing_is_lost_or_comes_out_of_order(world: World) -> None:
    connection = Connection(world, cost=1.0)
    data = bytes(range(256)) * PIECE
    connection.pace.received(data)
    assert len(connection.handled) < len(data)
    assert connection.pace.is_waiting
    assert not connection.is_read
    for _ in range(260):
        world.clock.advance(1 / ADDRESS_SHARE)
        world.paces.go_on()
    assert connection.handled == data
    assert not world.paces.waiting
    assert connection.transport.producerState == "producing"


def test_another_address_does_not_wait(world: World) -> None:
    flood = [Connection(world, f"192.0.2.{number}", 0.01) for number in range(20)]
    honest = Connection(world, "198.51.100.1", 0.002)
    used = 0.0
    for _ in range(50):
        used += handled_by(world, flood, 1)
        honest.pace.received(b"x")
        assert honest.is_read
    assert used < BURST + 51 * SHARE


def test_strangers_take_nothing_from_those_who_are_registered(world: World) -> None:
    """Not even from one at the same address."""
    flood = [Connection(world, f"192.0.2.{number}", 0.01) for number in range(100)]
    registered = Connection(world, "192.0.2.1", 0.01)
    registered.pace.is_registered = True
    handled_by(world, flood, 10)
    registered.pace.received(b"x" * PIECE)
    assert registered.is_read
    assert len(registered.handled) == PIECE


def test_connections_cost_even_if_they_say_nothing(world: World) -> None:
    for _ in range(int(ADDRESS_BURST / CONNECTION) + 1):
        connection = Connection(world)
    connection.pace.received(b"x")
    assert connection.handled == b""
    world.clock.advance(1)
    world.paces.go_on()
    assert connection.handled == b"x"


def test_bytes_count_even_if_they_cost_nothing(world: World) -> None:
    connection = Connection(world)
    handled_by(world, [connection], 10)
    assert len(connection.handled) <= BYTES * (ADDRESS_BURST + 11 * ADDRESS_SHARE)


def test_connections_from_one_address_take_turns(world: World) -> None:
    """One that sends all the time does not keep what another has sent once."""
    flood = [Connection(world, cost=0.1) for _ in range(5)]
    handled_by(world, flood, 30)
    honest = Connection(world)
    honest.pace.received(b"x")
    assert honest.handled == b""
    handled_by(world, flood, 30)
    assert honest.handled == b"x"
    assert len({len(connection.handled) for connection in flood}) <= 3


def test_a_connection_that_is_lost_does_not_wait(world: World) -> None:
    connection = Connection(world, cost=10.0)
    connection.pace.received(b"x" * 3 * PIECE)
    assert world.paces.waiting
    connection.pace.leave()
    assert not world.paces.waiting
    world.clock.advance(1000)
    world.paces.go_on()
    assert len(connection.handled) == PIECE
