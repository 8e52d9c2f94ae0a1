"""Whose offer a host takes up next, and who gives way."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from twisted.internet.task import Clock

from rtunnel.rtc.offers import (
    ALIVE_FOR,
    ASKS_AGAIN,
    MAX_CANDIDATES,
    MAX_CONNECTING,
    MAX_DROPPED,
    MAX_WAITING,
    MIN_CONNECTING,
    OFFERS_AT_ONCE,
    OFFERS_PER_SECOND,
    SILENT_FOR,
    Offer,
    Turns,
    WaitingOffers,
    count_places,
    who_gives_way,
    who_has_most,
)
from rtunnel.wire.webrtc.signaling import Candidate, Description


def offer(sender: str, sdp: str = "v=0") -> Offer:
    return Offer(sender, Description(sdp))


def drain(waiting: WaitingOffers) -> list[str]:
    """Everybody in turn."""
    found = []
    while (one := waiting.next()) is not None:
        found.append(one.sender)
    return found


def test_turns_go_by_sender() -> None:
    waiting = WaitingOffers()
    for number in range(100):
        waiting.add(offer("loud", f"v={number}"), 0.0)
    waiting.add(offer("modest"), 0.0)
    waiting.add(offer("loud", "the last"), 0.0)
    assert len(waiting) == 2
    loud = waiting.next()
    assert loud is not None
    assert loud.description.sdp == "the last"
    assert drain(waiting) == ["modest"]


def test_an_offer_may_be_withdrawn() -> None:
    waiting = WaitingOffers()
    for sender in ("a", "b", "c"):
        waiting.add(offer(sender), 0.0)
    waiting.discard("b")
    waiting.discard("nobody")
    assert drain(waiting) == ["a", "c"]
    waiting.add(offer("a"), 0.0)
    waiting.clear()
    assert drain(waiting) == []


def test_candidates_that_come_apart_are_kept_and_bounded() -> None:
    waiting = WaitingOffers()
    waiting.add(offer("a"), 0.0)
    found = waiting.get("a")
    assert found is not None
    for _ in range(1000):
        found.take_candidate(Candidate("candidate:x"))
    assert len(found.candidates) == MAX_CANDIDATES
    assert waiting.get("b") is None


def test_too_many_senders() -> None:
    waiting = WaitingOffers()
    dropped = [waiting.add(offer(f"{number}"), 0.0) for number in range(MAX_WAITING + 1000)]
    assert len(waiting) == MAX_WAITING
    assert not any(dropped[:MAX_WAITING])
    assert all(dropped[MAX_WAITING:])
    assert not set(drain(waiting)) & set(dropped)


def test_who_was_dropped_and_asks_again_comes_first() -> None:
    waiting, now = WaitingOffers(), 100.0
    dropped = [waiting.add(offer(f"{number}"), now) for number in range(MAX_WAITING + 2)][-2:]
    early, patient = dropped
    waiting.add(offer(early), now + ASKS_AGAIN / 2)
    waiting.add(offer(patient), now + ASKS_AGAIN)
    # Those who have just come are dropped before those who ask again.
    for number in range(10_000):
        waiting.add(offer(f"new {number}"), now + ASKS_AGAIN)
    first = waiting.next()
    assert first is not None
    assert first.sender == patient


def test_who_asks_too_often_does_not_lose_the_turn() -> None:
    """Asking again before it is time does not put it off."""
    waiting = WaitingOffers()
    for number in range(MAX_WAITING):
        waiting.add(offer(f"{number}"), 0.0)
    waiting._dropped[hash("hasty")] = 10.0
    number = 0
    while waiting.get("hasty") is None or number < 10:
        waiting.add(offer("hasty"), 10.0 + ASKS_AGAIN / 2)
        number += 1
    while waiting.get("hasty") is not None:
        number += 1
        waiting.add(offer(f"new {number}"), 10.0 + ASKS_AGAIN / 2)
    waiting.add(offer("hasty"), 10.0 + ASKS_AGAIN)
    first = waiting.next()
    assert first is not None
    assert first.sender == "hasty"
    assert hash("hasty") not in waiting._dropped


def test_what_is_remembered_of_dropped_offers_is_bounded() -> None:
    waiting = WaitingOffers()
    for number in range(MAX_DROPPED + 2 * MAX_WAITING):
        waiting.add(offer(f"{number}"), 0.0)
    assert len(waiting._dropped) == MAX_DROPPED


def test_an_honest_client_among_new_senders_all_the_time() -> None:
    """450 offers a second, each by a sender that nobody has seen; the honest one repeats its offer after 11 s."""
    for seed in range(10):
        random.seed(seed)
        waiting, taken, attempts = WaitingOffers(), -1.0, 0
        for step in range(450 * 30):
            now = step / 450
            if taken < 0 and step % (450 * 11) == 1000:
                waiting.add(offer("honest"), now)
                attempts += 1
            waiting.add(offer(f"stranger {step}"), now)
            if step % (450 // OFFERS_PER_SECOND) == 0:
                one = waiting.next()
                if one is not None and one.sender == "honest":
                    taken = now
        assert taken > 0, seed
        assert attempts <= 2, seed


@pytest.mark.parametrize(
    ("sockets", "descriptors", "places"),
    [(1, 20_000, MAX_CONNECTING), (0, 20_000, MAX_CONNECTING), (2, 1024, 64), (48, 1024, MIN_CONNECTING)],
)
def test_clients_on_their_way_take_few_descriptors(sockets: int, descriptors: int, places: int) -> None:
    assert count_places(sockets, descriptors) == places


def test_offers_are_taken_up_at_a_rate_and_when_there_is_a_place() -> None:
    clock, taken = Clock(), []
    places = OFFERS_AT_ONCE + 3

    def answer(one: Offer) -> None:
        taken.append(one.sender)

    turns = Turns(clock, lambda now: len(taken) < places, answer)
    for number in range(OFFERS_AT_ONCE + 10):
        turns.add(offer(f"{number}"))
    assert len(taken) == OFFERS_AT_ONCE
    clock.pump([1 / OFFERS_PER_SECOND] * 2)
    assert len(taken) == OFFERS_AT_ONCE + 2
    clock.pump([1 / OFFERS_PER_SECOND] * 20)
    assert len(taken) == places
    places += 100
    clock.pump([1 / OFFERS_PER_SECOND] * 2)
    assert taken == [f"{number}" for number in range(OFFERS_AT_ONCE + 10)]
    assert not clock.getDelayedCalls()
    places = 0
    turns.add(offer("late"))
    turns.stop()
    turns.stop()
    assert not len(turns.waiting)
    assert not clock.getDelayedCalls()


def test_one_offer_that_fails_does_not_end_the_turns_of_others() -> None:
    clock, taken = Clock(), list[str]()
    has_place = False

    def answer(one: Offer) -> None:
        if one.sender == "bad":
            raise RuntimeError
        taken.append(one.sender)

    turns = Turns(clock, lambda now: has_place, answer)
    turns.add(offer("bad"))
    turns.add(offer("good"))
    has_place = True
    with pytest.raises(RuntimeError):
        clock.advance(1 / OFFERS_PER_SECOND)
    clock.advance(1 / OFFERS_PER_SECOND)
    assert taken == ["good"]


@dataclass
class Client:
    since: float
    heard_from: str = ""


def test_the_longest_silent_gives_way_first() -> None:
    clients = [Client(0.0, "192.0.2.1"), Client(1.0), Client(2.0), Client(3.0, "192.0.2.1")]
    assert who_gives_way(clients, 1.0 + SILENT_FOR / 2) is None
    assert who_gives_way(clients, 1.0 + SILENT_FOR) is clients[1]
    assert who_gives_way(clients, 100.0) is clients[1]


def test_then_the_oldest_of_the_address_with_most_of_them() -> None:
    clients = [Client(0.0, "192.0.2.1")]
    clients += [Client(float(number), "2001:db8::") for number in range(1, 4)]
    clients += [Client(4.0, "192.0.2.1")]
    assert who_gives_way(clients, ALIVE_FOR / 2) is None
    assert who_gives_way(clients, 1.0 + ALIVE_FOR) is clients[1]


def test_alone_at_an_address_nobody_gives_way_who_shows_life() -> None:
    assert who_gives_way([Client(0.0, f"192.0.2.{number}") for number in range(9)], 1000.0) is None
    assert who_gives_way([], 1000.0) is None


@dataclass
class Connection:
    party: str


def test_whoever_has_most_connections_gives_way_to_others() -> None:
    crowd = [Connection(party) for party in "abcbabca"]
    assert [each.party for each in who_has_most(crowd, "d")] == ["a", "a", "a"]
    assert who_has_most(crowd, "c") == []
    assert [each.party for each in who_has_most([*crowd, Connection("b")], "c")] == ["b"] * 4
    # It is no use to come oneself, and nobody is one because nobody has proved who he is.
    assert who_has_most([Connection("a")] * 9, "a") == []
    assert who_has_most([Connection("")] * 9, "d") == []
    assert who_has_most([Connection("a"), Connection("b")], "") == []
    assert who_has_most([], "") == []
