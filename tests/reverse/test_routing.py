"""Who is asked next, and what the links of a name have together: as a look at all of them would say, without one."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.public import SHARED
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.roster import Roster
from rtunnel.reverse.server.routing import LAP, MOST_IN_LAP, POLICIES, Backends, LeastConnections, RoundRobin
from tests.ports import free_port
from tests.reverse.data import AUTO, CAPABILITIES, attach, pool_of, tickets_of
from tests.reverse.net import BOTH_PLANES, DATA, ERROR, HOST, INIT, NEW_CONN, READY, RawLink, until
from tests.reverse.world import World, port_of


class Session:
    """What counts of a link."""

    def __init__(self, name: str = "") -> None:
        self.link = self
        self.client_name = name
        self.address = f"192.0.2.{id(self)}"
        self.stream_count = 0
        self.backends: dict[int, Any] = {}

    @property
    def visitor_count(self) -> int:
        return self.stream_count

    @property
    def holder(self) -> tuple[str, str]:
        return self.client_name, "" if self.client_name else self.address


def backend(name: str = "") -> Backend:
    session: Any = Session(name)
    return Backend(session, 0, SHARED)


class Client:
    """What counts of a client."""

    def __init__(self) -> None:
        self.order: list[Backend] = []
        self.given = self.ended = 0

    @property
    def load(self) -> int:
        return sum(each.load for each in self.order) + self.ended


class Model:
    """The order of a pool, by looking at all."""

    def __init__(self, policy: str) -> None:
        self.by_load = policy == "least-connections"
        self.clients: dict[Any, Client] = {}

    @property
    def members(self) -> list[Backend]:
        return [backend for client in self.clients.values() for backend in client.order]

    def join(self, backend: Backend) -> None:
        client = self.clients.setdefault(backend.session.holder, Client())
        if not client.order:
            self.clients[backend.session.holder] = self.clients.pop(backend.session.holder)
        client.order.append(backend)

    def leave(self, backend: Backend) -> None:
        client = self.clients[backend.session.holder]
        client.order.remove(backend)
        if not client.order and not client.given and not client.ended:
            del self.clients[backend.session.holder]

    def candidates(self) -> list[Backend]:
        clients = list(self.clients.values())
        if self.by_load:
            clients.sort(key=lambda each: (each.given >= MOST_IN_LAP, each.load))
        found = []
        for client in clients:
            found += sorted(client.order, key=lambda each: each.load) if self.by_load else client.order
        return found

    def tried(self, backend: Backend) -> None:
        client = self.clients[backend.session.holder] = self.clients.pop(backend.session.holder)
        client.order.remove(backend)
        client.order.append(backend)

    def changed(self, backend: Backend, change: int) -> None:
        if not self.by_load or not change:
            return
        client = self.clients[backend.session.holder]
        client.given += max(0, change)
        client.ended -= min(0, change)
        there = [each for each in self.clients.values() if each.order]
        if sum(each.given for each in self.clients.values()) >= LAP * len(there):
            for name, each in list(self.clients.items()):
                each.given = each.ended = 0
                if not each.order:
                    del self.clients[name]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("load"), st.integers(0, 9), st.sampled_from([-2, -1, 1, 3])),
        st.tuples(st.just("visit"), st.integers(0, 4), st.booleans()),
        st.tuples(st.just("visit"), st.just(0), st.just(True)),
    ),
    max_size=120,
)


def change_load(pool: Backends, member: Backend, change: int) -> int:
    """Change it by no more than there is; return by how much."""
    session: Any = member.session
    before = session.stream_count
    session.stream_count = max(0, before + change)
    pool.load_changed(session)
    return int(session.stream_count - before)


@given(policy=st.sampled_from(sorted(POLICIES)), steps=STEPS)
@settings(max_examples=400)
def test_the_order_is_that_of_a_look_at_all(policy: str, steps: list[tuple[str, int, int]]) -> None:
    """A visitor whom so many cannot take, and then one can, or nobody."""
    pool, model = POLICIES[policy](), Model(policy)
    for what, number, more in steps:
        members = model.members
        if what == "join":
            newcomer = backend(["", "laptop", "phone"][number])
            model.join(newcomer)
            pool.join(newcomer)
        elif what == "visit":
            expected = model.candidates()
            for count, found in enumerate(pool.candidates()):
                assert found is expected[count]
                model.tried(found)
                if more and count == number:
                    model.changed(found, change_load(pool, found, 1))
                    break
            else:
                assert count_of(pool) == len(expected)
        elif members:
            member = members[number % len(members)]
            if what == "load":
                model.changed(member, change_load(pool, member, more))
            else:
                pool.leave(member)
                pool.leave(member)
                model.leave(member)
        assert len(pool) == len(model.members)
        assert all(member in pool for member in model.members)


def count_of(pool: Backends) -> int:
    """How many are asked if nobody can."""
    return len(list(pool.candidates()))


@pytest.mark.parametrize("policy", [RoundRobin, LeastConnections])
def test_one_who_leaves_while_others_are_asked(policy: type[Backends]) -> None:
    pool, members = policy(), [backend() for _ in range(3)]
    for member in members:
        pool.join(member)
    asked = []
    for member in pool.candidates():
        asked.append(member)
        pool.leave(members[1])
    assert asked == [members[0], members[2]]
    assert members[1] not in pool


def test_one_that_hangs_gets_no_more_visitors_than_it_has() -> None:
    """Three clients, two of which serve each visitor within a moment."""
    pool, members = LeastConnections(), [backend(name) for name in ("first", "second", "hangs")]
    for member in members:
        pool.join(member)
    lost = 0
    for _ in range(300):
        chosen = next(pool.candidates())
        change_load(pool, chosen, 1)
        if chosen is members[2]:
            lost += 1
        else:
            change_load(pool, chosen, -1)
    assert lost <= 2 * LAP


def test_what_is_kept_is_bounded() -> None:
    pool, members = LeastConnections(), [backend() for _ in range(10)]
    for member in members:
        pool.join(member)
    for turn in range(1000):
        change_load(pool, members[turn % 10], 1 if turn % 20 < 10 else -1)
        next(pool.candidates())
    assert len(pool._clients._heap) <= 2 * len(members) + 8
    for member in members:
        pool.leave(member)
    assert list(pool.candidates()) == []
    assert not pool._clients._heap
    assert not pool._of
    assert set(pool._known) <= {each.session.holder for each in members}


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "discard", "rename", "count", "end", "tunnels"]),
            st.integers(0, 9),
            st.sampled_from(["", "laptop", "phone"]),
        ),
        max_size=80,
    )
)
def test_the_counts_are_those_of_a_look_at_all(steps: list[tuple[str, int, str]]) -> None:
    roster: Roster[Any] = Roster()
    there: list[Any] = []
    gone: list[Any] = []
    for what, number, name in steps:
        if what == "add":
            session: Any = Session(name)
            there.append(session)
            roster.add(session)
        elif what == "end" and gone:
            session = gone.pop(number % len(gone))
            change, session.stream_count = -session.stream_count, 0
            roster.count(session, change)
        elif there:
            session = there[number % len(there)]
            if what == "discard":
                there.remove(session)
                roster.discard(session)
                roster.discard(session)
                roster.rename(session)
                if session.stream_count:
                    gone.append(session)
            elif what == "rename":
                session.client_name = name
                roster.rename(session)
            elif what == "count":
                session.stream_count += number
                roster.count(session, number)
            else:
                session.backends[number] = None
        assert set(roster) == set(there)
        assert len(roster) == len(there)
        for session in there:
            same = [each for each in there if each.client_name == session.client_name] if session.client_name else []
            late = [each for each in gone if session.client_name and each.client_name == session.client_name]
            assert roster.visitors_of(session) == sum(each.stream_count for each in [*(same or [session]), *late])
            assert roster.tunnels_of(session) == sum(len(each.backends) for each in same or [session])
            assert roster.links_besides(session) == sum(each.holder == session.holder for each in there) - 1
            assert roster.has_link_from(session.address)
    for session in there:
        roster.discard(session)
    for session in {*there, *gone}:
        change, session.stream_count = -session.stream_count, 0
        roster.count(session, change)
    assert not roster._visitors
    assert not roster._names
    assert not roster._addresses
    assert not roster._nameless


def named(roster: Roster[Any], name: str, *loads: int) -> list[Any]:
    """Links of one client in *roster*, with so many streams."""
    links: list[Any] = []
    for load in loads:
        links.append(Session(name))
        links[-1].stream_count = load
        roster.add(links[-1])
    return links


def test_who_gives_way_when_all_links_are_taken() -> None:
    roster: Roster[Any] = Roster()
    named(roster, "laptop", 0)
    phones = named(roster, "phone", 1, 2, 1)
    assert roster.first_to_go_for(Session("new")) is phones[2], "the newest of those with the fewest streams"
    assert roster.first_to_go_for(Session("laptop")) is phones[2]
    assert roster.first_to_go_for(Session("phone")) is None
    roster.discard(phones[2])
    assert roster.first_to_go_for(Session("laptop")) is None, "it would have more than the other then"
    assert roster.first_to_go_for(Session("new")) is phones[0]
    assert roster.first_to_go_for(Session()) is phones[0], "whoever has no name is known by the address"
    roster.discard(phones[0])
    assert roster.first_to_go_for(Session("new")) is None
    strangers = named(roster, "", 5, 6)
    assert roster.first_to_go_for(Session("new")) is strangers[0], "whoever has a name goes before all who have none"
    assert roster.first_to_go_for(Session()) is None


def test_who_gives_way_does_not_come_back_in_place_of_the_newcomer() -> None:
    roster: Roster[Any] = Roster()
    fleet = named(roster, "fleet", 0, 0, 0)
    newcomer: Any = Session()
    gone = roster.first_to_go_for(newcomer)
    assert gone is fleet[2]
    roster.discard(gone)
    roster.add(newcomer)
    assert roster.first_to_go_for(gone) is None, "or the two would take each other's place for ever"


# In a server


async def shared_links(world: World, server: Any, count: int, **values: Any) -> list[RawLink]:
    """Links by hand that serve the shared port."""
    links = []
    for _ in range(count):
        links.append(await world.raw_extended(server, **values))
        links[-1].put(INIT, 0, b"0:local")
        await links[-1].take(READY, 0)
    return links


@ensureDeferred
async def test_visitor_costs_no_look_at_all_links(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Backend] = []

    def load(self: Backend) -> int:
        looked.append(self)
        return self.session.link.stream_count

    server = world.server(shared=True, route="least-connections")
    links = await shared_links(world, server, 20)
    monkeypatch.setattr(Backend, "load", property(load))
    for link in links:
        looked.clear()
        await world.visitor(port_of(server.shared))
        await link.take(NEW_CONN)
        assert len(looked) <= 2
    looked.clear()
    links[7].abort()
    await world.sessions(server, 19)
    assert {each.session.peer_name for each in looked} <= {links[7].name}


@BOTH_PLANES
@ensureDeferred
async def test_visitors_of_one_name_are_counted_over_its_links(world: World, tmp_path: Any) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: 1234-5678, streams: 3}\nphone: {token: 8765-4321, streams: 3}\n")
    server, service = world.server(admission=AdmissionSettings(clients)), await world.echo()
    ports = [free_port() for _ in range(3)]
    for number, (port, token) in enumerate(zip(ports, ["1234-5678", "1234-5678", "8765-4321"], strict=True), 1):
        world.client(server, (port, service.port), token=token)
        await world.reachable(number)

    async def is_served(port: int) -> Any:
        visitor = await world.visitor(port)
        if not visitor.over:
            visitor.send(b"x")
        await until(lambda: visitor.over or visitor.received)
        return None if visitor.over else visitor

    def is_right(session: Any) -> bool:
        same = [each for each in server.sessions if each.client_name == session.client_name]
        return server.sessions.visitors_of(session) == sum(each.link.stream_count for each in same)

    async def check() -> None:
        # A visitor that is leaving counts until its connection is gone.
        await until(lambda: all(map(is_right, server.sessions)))

    laptops = [await is_served(ports[number]) for number in (0, 0, 1)]
    assert all(laptops)
    await check()
    assert await is_served(ports[0]) is None
    assert await is_served(ports[1]) is None
    assert world.lines("this client may serve 3 visitors at once")
    assert await is_served(ports[2])
    laptops[0].abort()
    laptop = next(each for each in server.sessions if each.client_name == "laptop")
    await until(lambda: server.sessions.visitors_of(laptop) == 2)
    laptops.append(await is_served(ports[1]))
    assert laptops[-1]
    assert await is_served(ports[1]) is None
    await check()
    if world.plane == "direct":
        return  # they outlive it
    # With its link a client's visitors are gone.
    (lost, _) = sorted(
        (each for each in server.sessions if each.client_name == "laptop"), key=lambda each: each.link.stream_count
    )
    assert lost.link.stream_count == 1
    lost.drop()
    await world.sessions(server, 2)
    await check()
    assert [server.sessions.visitors_of(each) for each in server.sessions if each.client_name == "laptop"] == [2]


@AUTO
@ensureDeferred
async def test_visitors_that_outlive_their_link_still_count(world: World, tmp_path: Any) -> None:
    """A client leaves in good order, and comes back while its visitors get their last bytes."""
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: 1234-5678, streams: 2}\n")
    server, port = world.server(admission=AdmissionSettings(clients)), free_port()

    async def come() -> tuple[RawLink, list[Any]]:
        link = await world.raw_extended(server, port, token="1234-5678", capabilities=CAPABILITIES)
        return link, [await attach(world, server, ticket) for ticket in (await tickets_of(link))[:2]]

    link, before = await come()
    await pool_of(world, server, 2)
    visitors = [await world.visitor(port) for _ in range(2)]
    for each in before:
        await each.is_used()
    link.put(ERROR, 0, b'{"scope": "link", "code": "shutting-down", "message": ""}')
    await world.sessions(server, 0)
    assert not any(visitor.over for visitor in visitors)
    link, data = await come()
    await pool_of(world, server, 2)
    await (await world.visitor(port)).ends()
    await world.logged("this client may serve 2 visitors at once")
    (session,) = server.sessions
    assert server.sessions.visitors_of(session) == 2
    for each in before:
        each.abort()
    await until(lambda: len(server.visitors) == 0)
    assert server.sessions.visitors_of(session) == 0
    await world.visitor(port)
    await until(lambda: any(each.visitor for each in data), "a visitor on a data connection")


@ensureDeferred
async def test_visitors_that_outlive_their_stream_still_count(world: World, tmp_path: Any) -> None:
    """They do not read what came before the reset, and get half a minute for it."""
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: 1234-5678, streams: 2}\n")
    server, port = world.server(admission=AdmissionSettings(clients)), free_port()
    link = await world.raw_extended(server, port, token="1234-5678")
    (session,) = server.sessions
    with ExitStack() as stack:
        for _ in range(2):
            visitor = stack.enter_context(socket.socket())
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            visitor.connect((HOST, port))
            number, _payload = await link.take(NEW_CONN)
            link.put(DATA, number, bytes(60_000))
            link.put(ERROR, number, b'{"scope": "stream", "code": "connection-lost", "message": ""}')
        await link.is_alive()
        assert not session.link.streams
        assert len(server.visitors) == server.sessions.visitors_of(session) == 2
        await (await world.visitor(port)).ends()
        await world.logged("this client may serve 2 visitors at once")
    await until(lambda: not len(server.visitors))
    assert server.sessions.visitors_of(session) == 0
