"""Tickets: good once, for a while, for one owner, and bounded in number."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from rtunnel.wire.data_connection import Tickets
from rtunnel.wire.messages import decode_attach, encode_attach
from tests.wire.pair import NOW


def test_each_is_good_once_and_for_its_owner() -> None:
    tickets = Tickets[str]()
    first, second = tickets.issue("one", 2, NOW)
    (other,) = tickets.issue("other", 1, NOW)
    assert len({first, second, other}) == 3
    assert tickets.take(second, NOW) == "one"
    assert tickets.take(second, NOW) is None
    assert tickets.take(other, NOW) == "other"
    assert tickets.take(first, NOW) == "one"
    assert len(tickets) == 0


def test_they_are_what_attach_carries() -> None:
    (ticket,) = Tickets[str]().issue("one", 1, NOW)
    assert decode_attach(encode_attach(ticket, 5.0)) == (ticket, 5.0)


def test_none_that_was_not_issued() -> None:
    tickets = Tickets[str]()
    (ticket,) = tickets.issue("one", 1, NOW)
    for wrong in ("", "0" * 32, ticket.upper() + "x", ticket[:-1], ticket + "0"):
        assert tickets.take(wrong, NOW) is None
    assert tickets.take(ticket, NOW) == "one", "wrong ones use none up"


def test_they_expire() -> None:
    tickets = Tickets[str](lifetime=30.0)
    early, punctual = tickets.issue("one", 2, NOW)
    (late,) = tickets.issue("one", 1, NOW + 20)
    assert tickets.take(punctual, NOW + 29.9) == "one"
    assert tickets.take(early, NOW + 30) is None
    assert tickets.outstanding("one", NOW + 30) == 1
    assert tickets.take(late, NOW + 49.9) == "one"


def test_expired_ones_are_forgotten() -> None:
    tickets = Tickets[int](lifetime=30.0)
    for owner in range(100):
        tickets.issue(owner, 10, NOW)
    assert tickets.outstanding(5, NOW + 31) == 0
    assert len(tickets) == 0
    assert tickets._by_owner == {}


def test_revoked_with_their_link() -> None:
    tickets = Tickets[str]()
    gone = tickets.issue("gone", 3, NOW)
    (stays,) = tickets.issue("stays", 1, NOW)
    tickets.revoke("gone")
    tickets.revoke("gone")
    tickets.revoke("never was")
    assert [tickets.take(ticket, NOW) for ticket in gone] == [None] * 3
    assert tickets.take(stays, NOW) == "stays"
    assert tickets.issue("gone", 1, NOW), "it may come back"


def test_an_owner_has_no_more_than_its_bound() -> None:
    tickets = Tickets[str](lifetime=30.0, max_per_owner=5)
    held = tickets.issue("one", 3, NOW)
    assert len(tickets.issue("one", 3, NOW + 1)) == 2
    assert tickets.issue("one", 3, NOW + 1) == []
    assert len(tickets.issue("other", 9, NOW + 1)) == 5
    tickets.take(held[0], NOW + 1)
    assert len(tickets.issue("one", 9, NOW + 1)) == 1
    assert len(tickets.issue("one", 9, NOW + 30)) == 2, "in place of those that expired"


def test_all_have_no_more_than_theirs() -> None:
    tickets = Tickets[int](max_per_owner=5, max_tickets=12)
    assert [len(tickets.issue(owner, 5, NOW)) for owner in range(4)] == [5, 5, 2, 0]
    assert len(tickets) == 12
    assert tickets._by_owner.keys() == {0, 1, 2}


def test_none_for_nothing() -> None:
    tickets = Tickets[str]()
    assert tickets.issue("one", 0, NOW) == tickets.issue("one", -1, NOW) == []
    assert tickets._by_owner == {}


STEPS = st.lists(
    st.tuples(st.sampled_from(["issue", "take", "revoke", "wait"]), st.integers(0, 3), st.integers(0, 6)), max_size=60
)


@given(STEPS)
@settings(max_examples=150)
def test_against_a_plain_model(steps: list[tuple[str, int, int]]) -> None:
    tickets = Tickets[int](lifetime=10.0, max_per_owner=4, max_tickets=10)
    model: dict[str, tuple[int, float]] = {}
    seen: list[str] = []
    now = NOW
    for what, owner, number in steps:
        model = {ticket: entry for ticket, entry in model.items() if entry[1] > now}
        if what == "issue":
            held = sum(entry[0] == owner for entry in model.values())
            issued = tickets.issue(owner, number, now)
            assert len(issued) == min(number, 4 - held, 10 - len(model))
            model |= dict.fromkeys(issued, (owner, now + 10.0))
            seen += issued
        elif what == "take" and seen:
            ticket = seen[number % len(seen)]
            assert tickets.take(ticket, now) == model.pop(ticket, (None,))[0]
        elif what == "revoke":
            tickets.revoke(owner)
            model = {ticket: entry for ticket, entry in model.items() if entry[0] != owner}
        else:
            now += number
        held = sum(entry[0] == owner and entry[1] > now for entry in model.values())
        assert tickets.outstanding(owner, now) == held
