"""Visitors who are put away, and with whom a process goes on: at any moment, and where what was left is garbage."""

from __future__ import annotations

import copy
import json
import os
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings as how, strategies as st
from pytest_twisted import ensureDeferred
from twisted.internet.task import deferLater

from rtunnel.reverse.stored import client as at_client, server as at_server
from rtunnel.reverse.stored.keeper import take_all
from rtunnel.reverse.stored.pools import Sockets
from tests.ports import free_port
from tests.reverse.data import DIRECT
from tests.reverse.net import reactor, until
from tests.reverse.world import OFTEN, World


class Store:
    """What systemd does, in this process."""

    def __init__(self, room: int = 10_000) -> None:
        self.room = room
        self.states: list[Any] = []
        self.sockets: dict[int, socket.socket] = {}

    def put(self, state: Any, descriptors: Sequence[int]) -> None:
        self.states.append(json.loads(json.dumps(state)))
        for each in descriptors:
            sock = socket.socket(fileno=os.dup(each))
            self.sockets[os.fstat(each).st_ino] = sock

    def give_back(self, take_back: Callable[[Any, Sockets], None]) -> None:
        found = Sockets(self.sockets)
        for state in self.states:
            take_back(state, found)
        found.close()


class Ends:
    """Both ends of a tunnel, which put all visitors away and go on with them."""

    def __init__(self, server: Any, client: Any) -> None:
        self.server, self.client = server, client

    def put(self, end: str, room: int = 10_000) -> Store:
        store = Store(room)
        if end == "server":
            at_server.ServerKeeper(self.server, store).put_all()
        else:
            at_client.ClientKeeper(self.client.links, self.client.visitors, store).put_all()
        return store

    def take(self, end: str, store: Store) -> None:
        if end == "server":
            store.give_back(lambda state, found: at_server.take_back(self.server, state, found))
        else:
            links, visitors = self.client.links, self.client.visitors
            store.give_back(lambda state, found: at_client.take_back(links, visitors, state, found))

    def move(self, end: str) -> int:
        store = self.put(end)
        self.take(end, store)
        return len(store.sockets) // 2


async def ends_of(world: World) -> tuple[Ends, int]:
    port, service, server = free_port(), await world.echo(), world.server(limits=OFTEN)
    client = world.client(server, (port, service.port), limits=OFTEN)
    await world.reachable()
    return Ends(server, client), port


SIZE = 10_000_000
COUNT = 4


@DIRECT
@ensureDeferred
async def test_at_any_moment(world: World) -> None:
    """Bytes go back and forth, in all sizes, while both ends move again and again."""
    chance = random.Random(7)
    ends, port = await ends_of(world)
    visitors = [await world.visitor(port) for _ in range(COUNT)]
    sent = [chance.randbytes(SIZE) for _ in visitors]
    for visitor, data in zip(visitors, sent, strict=True):
        visitor.send(data)
        visitor.half_close()
    moved = 0
    while not all(visitor.eof for visitor in visitors) and moved < 5000:
        moved += ends.move(chance.choice(("server", "client")))
        await deferLater(reactor, chance.choice((0, 0, 0.001, 0.01)))
    await until(lambda: all(visitor.eof for visitor in visitors))
    assert [bytes(visitor.received) for visitor in visitors] == sent
    assert moved > 20 * COUNT
    await until(lambda: not ends.server.visitors and not ends.client.visitors)


@DIRECT
@ensureDeferred
async def test_what_is_counted(world: World) -> None:
    ends, port = await ends_of(world)
    visitor = await world.visitor(port)
    visitor.send(b"before")
    await visitor.has(b"before")
    for end, service in (("server", ends.server), ("client", ends.client)):
        accounts = service.visitors.accounts
        assert (accounts.visitors, accounts.totals) == (1, (6, 6))
        store = ends.put(end)
        assert (accounts.visitors, accounts.totals, len(service.visitors)) == (1, (6, 6), 0)
        ends.take(end, store)
        assert (accounts.visitors, accounts.totals, len(service.visitors)) == (1, (6, 6), 1)
        [each] = service.visitors
        assert each.bytes_received == each.bytes_sent == 6
    visitor.send(b"behind")
    await visitor.has(b"beforebehind")
    assert ends.server.visitors.accounts.totals == (12, 12)
    assert len(ends.server.kept) == len(ends.client.link.kept) == 1


@DIRECT
@ensureDeferred
async def test_no_more_than_there_is_room_for(world: World) -> None:
    """The others are served as ever."""
    ends, port = await ends_of(world)
    visitors = [await world.visitor(port) for _ in range(3)]
    for each in visitors:
        each.send(b"before")
        await each.has(b"before")
    store = ends.put("server", room=5)
    assert len(store.sockets) == 4
    assert len(ends.server.visitors) == 1
    for each in visitors:
        each.send(b"behind")
    await until(lambda: sum(len(each.received) == 12 for each in visitors) == 1)
    ends.take("server", store)
    for each in visitors:
        await each.has(b"beforebehind")


GARBAGE = [None, True, -1, 2**70, 0.5, float("nan"), "", "AAAA", "x" * 9, [], [1], {}, {"x": 1}]


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in it something can be replaced."""
    found = [path] if path else []
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        found += paths_of(inner, (*path, step))
    return found


def replaced(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    new = copy.deepcopy(state)
    inner = new
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return new


@DIRECT
@pytest.mark.parametrize("end", ["server", "client"])
@ensureDeferred
async def test_garbage(world: World, end: str) -> None:
    """Whatever stands in any place: no error, and no socket is left. What can be used is used."""
    ends, port = await ends_of(world)
    visitor = await world.visitor(port)
    visitor.send(b"before")
    await visitor.has(b"before")
    store = ends.put(end)
    [whole] = store.states
    mine = store.sockets
    for path in paths_of(whole):
        for value in GARBAGE:
            pairs = [socket.socketpair() for _ in mine]
            for ours, theirs in pairs:
                ours.setblocking(False)
                theirs.setblocking(False)
            store.sockets = dict(zip(mine, [ours for ours, _ in pairs], strict=True))
            store.states = [replaced(whole, path, value)]
            ends.take(end, store)
            service = getattr(ends, end)
            (service.kept if end == "server" else service.link.kept).close()
            service.visitors.abort_all()  # who still gets last bytes
            assert all(ours.fileno() < 0 for ours, _ in pairs), path
            for _, theirs in pairs:
                theirs.close()
    # And what is not garbage.
    store.sockets, store.states = mine, [whole]
    ends.take(end, store)
    visitor.send(b"behind")
    await visitor.has(b"beforebehind")
    assert not world.lines("Traceback")


@given(
    state=st.recursive(
        st.sampled_from(GARBAGE[:9]),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["peers", "whose", "cipher", "visitors", "sockets"]), inner)
        ),
    )
)
@how(max_examples=200)
def test_any_json(state: Any) -> None:
    service: Any = None
    take_all(state, Sockets({}), reactor, service, at_server.Owners(), service)
