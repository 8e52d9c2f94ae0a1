"""An address keeps its machine: whoever comes or goes, all others stay where they are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rtunnel.access.public import Public
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.routing import POLICIES, Backends, Sticky

ADDRESSES = [f"198.51.{number // 250}.{number % 250}" for number in range(2000)]


class Session:
    """What counts of a link."""

    def __init__(self, *holder: str) -> None:
        self.holder = holder


def backend(name: str, address: str = "") -> Backend:
    session: Any = Session(name, address)
    return Backend(session, 0, Public(8080))


def filled(*members: Backend, by_link: bool = True) -> Sticky:
    pool = Sticky(by_link=by_link)
    for member in members:
        pool.join(member)
    return pool


def homes(pool: Backends) -> dict[str, Backend]:
    """Whom each address gets."""
    return {address: next(pool.candidates(address)) for address in ADDRESSES}


def moved(before: dict[str, Backend], after: dict[str, Backend]) -> set[str]:
    return {address for address in ADDRESSES if before[address] is not after[address]}


@pytest.mark.parametrize("count", [1, 2, 3, 10])
@pytest.mark.parametrize("names", ["alike", "different", "unknown"])
def test_each_has_its_share(count: int, names: str) -> None:
    """Also the links of one client, or of clients at one address: in a group each is a machine."""
    members = [
        {"alike": backend("web"), "different": backend(f"web-{number}"), "unknown": backend("", "192.0.2.1")}[names]
        for number in range(count)
    ]
    shares = Counter(homes(filled(*members)).values())
    fair = len(ADDRESSES) / count
    # Six deviations of a fair draw.
    bound = 6 * (fair * (1 - 1 / count)) ** 0.5
    assert all(abs(shares[member] - fair) <= bound for member in members)


@pytest.mark.parametrize("names", ["alike", "different"])
def test_only_the_visitors_of_one_that_goes_move(names: str) -> None:
    members = [backend("web" if names == "alike" else f"web-{number}") for number in range(5)]
    pool = filled(*members)
    before = homes(pool)
    pool.leave(members[2])
    without = homes(pool)
    assert moved(before, without) == {address for address in ADDRESSES if before[address] is members[2]}
    assert len(Counter(without[address] for address in moved(before, without))) == 4, "all others get some of them"
    # It comes back over another link.
    again = backend("web" if names == "alike" else "web-2")
    pool.join(again)
    assert {address for address, home in homes(pool).items() if home is again} == moved(before, without)
    assert moved(without, homes(pool)) == moved(before, without)


def test_the_order_in_which_clients_came_means_nothing() -> None:
    members = [backend(f"web-{number}") for number in range(5)]
    assert homes(filled(*members)) == homes(filled(*reversed(members)))


def test_of_the_shared_port_a_client_has_one_share_however_many_links_it_has() -> None:
    many, one = [backend("many") for _ in range(4)], backend("one")
    pool = filled(*many, one, by_link=False)
    shares = Counter(homes(pool).values())
    assert abs(shares[one] - len(ADDRESSES) / 2) < 6 * len(ADDRESSES) ** 0.5 / 2
    assert all(shares[member] for member in many)
    before = homes(pool)
    pool.leave(many[1])
    assert moved(before, homes(pool)) == {address for address in ADDRESSES if before[address] is many[1]}
    assert not any(before[address] is one or homes(pool)[address] is one for address in moved(before, homes(pool)))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sampled_from(["", "laptop", "phone"])),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("load"), st.integers(0, 9)),
        st.tuples(st.just("visit"), st.integers(0, 9)),
    ),
    max_size=60,
)


@given(policy=st.sampled_from(sorted(POLICIES)), by_link=st.booleans(), steps=STEPS)
def test_everybody_is_asked_once(policy: str, by_link: bool, steps: list[tuple[str, Any]]) -> None:
    pool, there = POLICIES[policy](by_link=by_link), list[Backend]()
    for what, which in steps:
        if what == "join":
            there.append(backend(which, "" if which else "192.0.2.1"))
            pool.join(there[-1])
        elif what == "visit":
            found = list(pool.candidates(f"198.51.100.{which}"))
            assert len(found) == len(set(found))
            assert set(found) == set(there)
            if policy == "sticky":
                assert found == list(pool.candidates(f"198.51.100.{which}")), "its order is the same each time"
        elif there:
            member = there[which % len(there)]
            if what == "leave":
                there.remove(member)
                pool.leave(member)
            else:
                member.load += 1
                pool.load_changed(member)
        assert len(pool) == len(there)
    for member in there:
        pool.leave(member)
    assert list(pool.candidates("")) == []


@pytest.mark.parametrize("policy", ["round-robin", "least-connections"])
def test_links_of_a_group_have_turns_of_their_own(policy: str) -> None:
    pool, members = POLICIES[policy](by_link=True), [backend("twice"), backend("twice"), backend("once")]
    for member in members:
        pool.join(member)
    turns = Counter()  # type: Counter[Backend]
    for _ in range(30):
        chosen = next(pool.candidates(""))
        turns[chosen] += 1
        chosen.load += 1
        pool.load_changed(chosen)
    assert set(turns.values()) == {10}


def test_one_who_leaves_while_others_are_asked() -> None:
    members = [backend(f"web-{number}") for number in range(4)]
    pool, asked = filled(*members), list[Backend]()
    for member in pool.candidates("198.51.100.7"):
        asked.append(member)
        pool.leave(members[1])
        pool.leave(members[2])
    assert {members[0], members[3]} <= set(asked)
