"""Tickets: good for one connection, for a while, for one owner, and bounded in number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.wire.data.keys import Ratchet, Ticket
from rtunnel.wire.data.tickets import MAX_ATTEMPTS, ClientTickets, Tickets
from tests.examples import examples
from tests.wire.pair import NOW


def root_of(owner: object) -> bytes:
    return str(owner).encode().ljust(32, b".")


def tickets_of(owner: object, count: int) -> list[Ticket]:
    """The first tickets that the client with this owner's root derives."""
    return ClientTickets(Ratchet(root_of(owner))).take(0, count)


def joined(*owners: object, **bounds: float) -> Tickets[object]:
    tickets = Tickets[object](**bounds)  # type: ignore[arg-type]
    for owner in owners:
        tickets.join(owner, Ratchet(root_of(owner)))
    return tickets


def test_each_is_good_once_and_for_its_owner() -> None:
    tickets = joined("one", "other")
    assert tickets.issue("one", 2, NOW) == (0, 2)
    assert tickets.issue("other", 1, NOW) == (0, 1)
    first, second = tickets_of("one", 2)
    (other,) = tickets_of("other", 1)
    assert tickets.find(second.id, NOW) == ("one", second)
    assert tickets.spend(second.id)
    assert tickets.find(second.id, NOW) is None
    assert not tickets.spend(second.id)
    assert tickets.find(other.id, NOW) == ("other", other)
    assert tickets.find(first.id, NOW) == ("one", first)
    assert tickets.spend(first.id)
    assert len(tickets) == 1


def test_none_that_was_not_issued() -> None:
    tickets = joined("one")
    tickets.issue("one", 1, NOW)
    issued, later = tickets_of("one", 2)
    for wrong in (b"", bytes(16), issued.id[:-1], issued.id + b"0", later.id, issued.key[:16]):
        assert tickets.find(wrong, NOW) is None
        assert not tickets.spend(wrong)
    assert tickets.find(issued.id, NOW) == ("one", issued), "wrong ones use none up"


def test_indices_go_on() -> None:
    tickets = joined("one")
    client = ClientTickets(Ratchet(root_of("one")))
    for first, count in ((0, 3), (3, 1), (4, 2)):
        assert tickets.issue("one", count, NOW) == (first, count)
        for ticket in client.take(first, count):
            assert tickets.find(ticket.id, NOW) == ("one", ticket)


# Attempts


def test_a_ticket_is_tried_a_few_times_only() -> None:
    tickets = joined("one")
    tickets.issue("one", 1, NOW)
    (ticket,) = tickets_of("one", 1)
    assert [tickets.find(ticket.id, NOW) for _ in range(MAX_ATTEMPTS)] == [("one", ticket)] * MAX_ATTEMPTS
    assert tickets.find(ticket.id, NOW) is None
    assert tickets.spend(ticket.id), "a stranger's attempts do not take it from the one who was found in time"
    assert not tickets.spend(ticket.id), "only one of them has it"


def test_a_ticket_may_go_while_it_is_tried() -> None:
    tickets = joined("one")
    tickets.issue("one", 2, NOW)
    first, second = tickets_of("one", 2)
    assert tickets.find(first.id, NOW)
    tickets.revoke("one")
    assert not tickets.spend(first.id)
    tickets.issue("one", 1, NOW)
    assert tickets.find(second.id, NOW) is None


# Time


def test_they_expire() -> None:
    tickets = joined("one", lifetime=30.0)
    tickets.issue("one", 2, NOW)
    tickets.issue("one", 1, NOW + 20)
    early, punctual, late = tickets_of("one", 3)
    assert tickets.find(punctual.id, NOW + 29.9)
    assert tickets.find(early.id, NOW + 30) is None
    assert not tickets.spend(early.id)
    assert tickets.outstanding("one", NOW + 30) == 1
    assert tickets.find(late.id, NOW + 49.9)


def test_expired_ones_are_forgotten() -> None:
    tickets = joined(*range(100), lifetime=30.0)
    for owner in range(100):
        tickets.issue(owner, 10, NOW)
    assert tickets.outstanding(5, NOW + 31) == 0
    assert len(tickets) == 0
    assert tickets._by_owner == {}


# Owners


def test_none_before_the_owner_has_joined() -> None:
    tickets = Tickets[str]()
    assert tickets.issue("one", 3, NOW) == (0, 0)
    assert tickets.outstanding("one", NOW) == len(tickets) == 0


def test_revoked() -> None:
    tickets = joined("one", "stays")
    tickets.issue("one", 3, NOW)
    tickets.issue("stays", 1, NOW)
    tickets.revoke("one")
    tickets.revoke("one")
    tickets.revoke("never was")
    *gone, new = tickets_of("one", 4)
    assert [tickets.find(ticket.id, NOW) for ticket in gone] == [None] * 3
    (stays,) = tickets_of("stays", 1)
    assert tickets.find(stays.id, NOW) == ("stays", stays)
    assert tickets.issue("one", 1, NOW) == (3, 1), "the chain goes on"
    assert tickets.find(new.id, NOW) == ("one", new)


def test_who_leaves_leaves_nothing() -> None:
    tickets = joined("one")
    tickets.issue("one", 3, NOW)
    tickets.leave("one")
    tickets.leave("one")
    assert tickets.issue("one", 1, NOW) == (0, 0)
    assert len(tickets) == len(tickets._by_owner) == len(tickets._ratchets) == 0
    tickets.join("one", Ratchet(root_of("one again")))
    assert tickets.issue("one", 1, NOW) == (0, 1)
    (ticket,) = tickets_of("one again", 1)
    assert tickets.find(ticket.id, NOW) == ("one", ticket)


# Bounds


def test_an_owner_has_no_more_than_its_bound() -> None:
    tickets = joined("one", "other", lifetime=30.0, max_per_owner=5)
    assert tickets.issue("one", 3, NOW) == (0, 3)
    assert tickets.issue("one", 3, NOW + 1) == (3, 2)
    assert tickets.issue("one", 3, NOW + 1) == (5, 0)
    assert tickets.issue("other", 9, NOW + 1) == (0, 5)
    assert tickets.spend(tickets_of("one", 1)[0].id)
    assert tickets.issue("one", 9, NOW + 1) == (5, 1)
    assert tickets.issue("one", 9, NOW + 30) == (6, 2), "in place of those that expired"


def test_all_have_no_more_than_theirs() -> None:
    tickets = joined(*range(4), max_per_owner=5, max_tickets=12)
    assert [tickets.issue(owner, 5, NOW) for owner in range(4)] == [(0, 5), (0, 5), (0, 2), (0, 0)]
    assert len(tickets) == 12
    assert tickets._by_owner.keys() == {0, 1, 2}


@pytest.mark.parametrize("count", [0, -1])
def test_none_for_nothing(count: int) -> None:
    tickets = joined("one")
    assert tickets.issue("one", count, NOW) == (0, 0)
    assert tickets._by_owner == {}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["issue", "issue", "find", "spend", "revoke", "leave", "wait"]),
        st.integers(0, 3),
        st.integers(0, 6),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=examples(150))
def test_against_a_plain_model(steps: list[tuple[str, int, int]]) -> None:
    tickets = Tickets[int](lifetime=10.0, max_per_owner=4, max_tickets=10)
    clients: dict[int, ClientTickets] = {}
    valid: dict[bytes, tuple[int, Ticket, float]] = {}
    attempts: dict[bytes, int] = {}
    seen: list[bytes] = []
    now = NOW
    for number_of_step, (what, owner, number) in enumerate(steps):
        valid = {id: entry for id, entry in valid.items() if entry[2] > now}
        if what == "issue":
            if owner not in clients:
                root = root_of(number_of_step)
                clients[owner] = ClientTickets(Ratchet(root))
                tickets.join(owner, Ratchet(root))
            held = sum(entry[0] == owner for entry in valid.values())
            first, count = tickets.issue(owner, number, now)
            assert count == min(number, 4 - held, 10 - len(valid))
            for ticket in clients[owner].take(first, count):
                valid[ticket.id] = owner, ticket, now + 10.0
                seen.append(ticket.id)
        elif what == "find" and seen:
            id = seen[number % len(seen)]
            expected = None
            if id in valid and attempts.get(id, 0) < MAX_ATTEMPTS:
                attempts[id] = attempts.get(id, 0) + 1
                expected = valid[id][:2]
            assert tickets.find(id, now) == expected
        elif what == "spend" and seen:
            id = seen[number % len(seen)]
            assert tickets.spend(id) == (valid.pop(id, None) is not None)
        elif what in ("revoke", "leave"):
            (tickets.revoke if what == "revoke" else tickets.leave)(owner)
            valid = {id: entry for id, entry in valid.items() if entry[0] != owner}
            if what == "leave":
                clients.pop(owner, None)
        elif what == "wait":
            now += number
        held = sum(entry[0] == owner and entry[2] > now for entry in valid.values())
        assert tickets.outstanding(owner, now) == held


# The client's side


def test_a_gap_or_a_repetition_ends_the_link() -> None:
    client = ClientTickets(Ratchet(root_of("one")))
    client.take(0, 3)
    for first in (0, 2, 4, 2**62):
        with pytest.raises(ValueError, match=rf"^tickets from {first} where 3 is next$"):
            client.take(first, 1)
    assert [ticket.index for ticket in client.take(3, 2)] == [3, 4]
