"""Who is asked next, and what the links of a name have together: as a look at all of them would say, without one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.public import SHARED
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.roster import Roster
from rtunnel.reverse.server.routing import POLICIES, Backends, LeastConnections, RoundRobin
from tests.ports import free_port
from tests.reverse.net import BOTH_PLANES, INIT, NEW_CONN, READY, RawLink, until
from tests.reverse.world import World, port_of


class Session:
    """What counts of a link."""

    def __init__(self) -> None:
        self.link = self
        self.client_name = ""
        self.stream_count = 0
        self.backends: dict[int, Any] = {}


def backend() -> Backend:
    session: Any = Session()
    return Backend(session, 0, SHARED)


class Model:
    """The order of a pool, by looking at all."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.order: list[Backend] = []

    def candidates(self) -> list[Backend]:
        if self.policy == "least-connections":
            return sorted(self.order, key=lambda each: each.load)
        return list(self.order)

    def tried(self, backend: Backend) -> None:
        self.order.remove(backend)
        self.order.append(backend)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.just(0), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("load"), st.integers(0, 9), st.sampled_from([-2, -1, 1, 3])),
        st.tuples(st.just("visit"), st.integers(0, 4), st.booleans()),
        st.tuples(st.just("visit"), st.just(0), st.just(True)),
    ),
    max_size=120,
)


def change_load(pool: Backends, member: Backend, change: int) -> None:
    session: Any = member.session
    session.stream_count = max(0, session.stream_count + change)
    pool.load_changed(session)


@given(policy=st.sampled_from(sorted(POLICIES)), steps=STEPS)
@settings(max_examples=400)
def test_the_order_is_that_of_a_look_at_all(policy: str, steps: list[tuple[str, int, int]]) -> None:
    """A visitor whom so many cannot take, and then one can, or nobody."""
    pool, model = POLICIES[policy](), Model(policy)
    for what, number, more in steps:
        if what == "join":
            model.order.append(backend())
            pool.join(model.order[-1])
        elif what == "visit":
            expected = model.candidates()
            for count, found in enumerate(pool.candidates()):
                assert found is expected[count]
                model.tried(found)
                if more and count == number:
                    change_load(pool, found, 1)
                    break
            else:
                assert count_of(pool) == len(expected)
        elif model.order:
            member = model.order[number % len(model.order)]
            if what == "load":
                change_load(pool, member, more)
            else:
                pool.leave(member)
                pool.leave(member)
                model.order.remove(member)
        assert len(pool) == len(model.order)
        assert all(member in pool for member in model.order)


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


def test_what_is_kept_is_bounded() -> None:
    pool, members = LeastConnections(), [backend() for _ in range(10)]
    for member in members:
        pool.join(member)
    for turn in range(1000):
        change_load(pool, members[turn % 10], 1 if turn % 20 < 10 else -1)
        next(pool.candidates())
    assert len(pool._heap) <= 2 * len(members) + 8
    for member in members:
        pool.leave(member)
    assert list(pool.candidates()) == []
    assert not pool._heap
    assert not pool._of


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "discard", "rename", "count", "tunnels"]),
            st.integers(0, 9),
            st.sampled_from(["", "laptop", "phone"]),
        ),
        max_size=80,
    )
)
def test_the_counts_are_those_of_a_look_at_all(steps: list[tuple[str, int, str]]) -> None:
    roster: Roster[Any] = Roster()
    there: list[Any] = []
    for what, number, name in steps:
        if what == "add":
            session: Any = Session()
            there.append(session)
            roster.add(session)
        elif there:
            session = there[number % len(there)]
            if what == "discard":
                there.remove(session)
                roster.discard(session)
                roster.discard(session)
                roster.rename(session)
                roster.count(session, 1)
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
            assert roster.streams_of(session) == sum(each.stream_count for each in same or [session])
            assert roster.tunnels_of(session) == sum(len(each.backends) for each in same or [session])
    for session in there:
        roster.discard(session)
    assert not roster._clients
    assert not roster._names


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

    def check() -> None:
        for session in server.sessions:
            same = [each for each in server.sessions if each.client_name == session.client_name]
            assert server.sessions.streams_of(session) == sum(each.link.stream_count for each in same)

    laptops = [await is_served(ports[number]) for number in (0, 0, 1)]
    assert all(laptops)
    check()
    assert await is_served(ports[0]) is None
    assert await is_served(ports[1]) is None
    assert world.lines("this client may serve 3 visitors at once")
    assert await is_served(ports[2])
    laptops[0].abort()
    await until(lambda: len(server.visitors) == 3)
    laptops.append(await is_served(ports[1]))
    assert laptops[-1]
    assert await is_served(ports[1]) is None
    check()
    # With its link a client's visitors are gone.
    (lost, _) = sorted(
        (each for each in server.sessions if each.client_name == "laptop"), key=lambda each: each.link.stream_count
    )
    assert lost.link.stream_count == 1
    lost.drop()
    await world.sessions(server, 2)
    check()
    assert [server.sessions.streams_of(each) for each in server.sessions if each.client_name == "laptop"] == [2]
