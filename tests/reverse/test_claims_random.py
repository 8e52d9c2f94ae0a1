"""Whoever asks for whatever in any order: a name belongs to one client or one group, and so does a port."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from hypothesis import given, settings, strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger

from rtunnel.access.public import Public
from rtunnel.access.rules import Rules
from rtunnel.cluster.memory import MemoryDirectory
from rtunnel.errors import Refused
from rtunnel.reverse.cluster.claims import Claims
from rtunnel.reverse.server.held import Lobby
from rtunnel.reverse.server.hosts import HostNames
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.refusals import Refusals
from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.visitors import Visitors
from tests.examples import examples

PLACES = [
    Public(None, "http", "app", ""),
    Public(None, "http", "app", "/api"),
    Public(None, "https", "app", ""),
    Public(None, "http", "*.app", ""),
]
RULES = [
    Rules(),
    Rules(connections=5),
    Rules(group="web", group_key="k" * 16),
    Rules(group="web", group_key="k" * 16, balance="sticky"),
    Rules(group="web", group_key="f" * 16),
    Rules(group="app", group_key="k" * 16),
]


class Session:
    """A client that lives, and cannot be asked."""

    is_live = True
    is_extended = False
    known_as = None

    def __init__(self, number: int) -> None:
        self.link = self
        self.peer_name = f"client {number}"
        self.holder = (self.peer_name, "")


def are_one(one: Rules, other: Rules) -> bool:
    return bool(one.group) and (one.group, one.group_key) == (other.group, other.group_key)


def may_join(there: list[Backend], backend: Backend) -> bool:
    """As the documents have it."""
    for other in there:
        if other.asked.host != backend.asked.host:
            continue
        if other.asked == backend.asked and (other.session is backend.session or other.rules != backend.rules):
            return False
        if other.session is not backend.session and not are_one(other.rules, backend.rules):
            return False
    return True


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(0, 2), st.sampled_from(PLACES), st.sampled_from(RULES)),
        st.tuples(st.just("withdraw"), st.integers(0, 9), st.none(), st.none()),
        st.tuples(st.just("lose"), st.integers(0, 2), st.none(), st.none()),
        st.tuples(st.just("time"), st.integers(0, 9), st.none(), st.none()),
    ),
    max_size=40,
)


@given(steps=STEPS, hold=st.sampled_from([0.0, 5.0]))
@settings(max_examples=examples(300))
def test_names(steps: list[Any], hold: float) -> None:
    clock = Clock()
    log = Logger()
    lobby = Lobby(
        Visitors(Descriptors(clock), Accounts(clock)), Memory(2**20, clock, log), None, LogLimiter(log, clock)
    )
    names = HostNames(clock, lobby, Refusals(clock), Claims(clock, MemoryDirectory(clock)))
    sessions: list[Any] = [Session(number) for number in range(3)]
    there: list[Backend] = []
    for what, number, place, rules in steps:
        if what == "claim":
            backend = Backend(sessions[number], 0, place, rules=rules)
            found: list[Any] = []
            Deferred.fromCoroutine(names.claim(place, backend)).addBoth(found.append)
            (result,) = found
            if may_join(there, backend):
                assert result is None, result
                there.append(backend)
            else:
                result.trap(Refused)
        elif what == "time":
            clock.advance(number)
        elif there:
            gone = [there[number % len(there)]]
            if what == "lose":
                gone = [each for each in there if each.session is sessions[number]]
            for each in gone:
                there.remove(each)
                each.group.leave(each, hold if what == "lose" else 0.0)
        assert len(names) == len(there)
        for host, members in groupby(sorted(there, key=lambda each: each.asked.host), lambda each: each.asked.host):
            first, *others = members
            assert all(other.session is first.session or are_one(other.rules, first.rules) for other in others), host
        for each in there:
            assert each.group.rules == each.rules
            assert each in set(each.group)
    for each in there:
        each.group.leave(each)
    names.close()
    assert not names._names
    assert not clock.getDelayedCalls()
