"""Who is asked next, and what the links of a name have together: as a look at all of them would say, without one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from rtunnel.access.public import SHARED
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.roster import Roster
from rtunnel.reverse.server.routing import LAP, MOST_IN_LAP, POLICIES, Backends, LeastConnections, RoundRobin
from tests.examples import examples


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
    before = member.load
    member.load = max(0, before + change)
    pool.load_changed(member)
    return member.load - before


#: The last client that is left has given its share of the lap, and then is told that nothing has changed.
NO_CHANGE = [
    *[("join", 1, 0), ("visit", 0, True), ("visit", 0, True), ("load", 0, -2), ("visit", 0, True)],
    *[("join", 0, 0), ("join", 0, 0), ("leave", 0, 0), ("visit", 0, True), ("join", 1, 0), ("leave", 0, 0)],
    *[("leave", 0, 0), ("load", 0, -2), ("join", 0, 0), ("visit", 0, False)],
]


@given(policy=st.sampled_from(["round-robin", "least-connections"]), steps=STEPS)
@example(policy="least-connections", steps=NO_CHANGE)
@settings(max_examples=examples(400))
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
            for count, found in enumerate(pool.candidates("")):
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
    return len(list(pool.candidates("")))


@pytest.mark.parametrize("policy", [RoundRobin, LeastConnections])
def test_one_who_leaves_while_others_are_asked(policy: type[Backends]) -> None:
    pool, members = policy(), [backend() for _ in range(3)]
    for member in members:
        pool.join(member)
    asked = []
    for member in pool.candidates(""):
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
        chosen = next(pool.candidates(""))
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
        next(pool.candidates(""))
    assert len(pool._clients._heap) <= 2 * len(members) + 8
    for member in members:
        pool.leave(member)
    assert list(pool.candidates("")) == []
    assert not pool._clients._heap
    assert not pool._taken
    assert set(pool._known) <= {(each.session.holder, 0) for each in members}


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
