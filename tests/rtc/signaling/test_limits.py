"""How fast a peer of the signaling server may send, without a connection."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rtunnel.rtc.signaling import limits
from rtunnel.rtc.signaling.limits import (
    ALL_INVITATIONS_BURST,
    ALL_OFFERS,
    ALL_OFFERS_BURST,
    ANSWER,
    BURST,
    INVITATIONS_BURST,
    MAX_ANSWERS,
    OFFERS,
    OFFERS_BURST,
    InvitationRate,
    MessageRate,
)


def test_so_many_messages_a_second_and_a_burst() -> None:
    rate = MessageRate(2, 100.0)
    assert all(rate.take(100.0) for _ in range(2 * BURST))
    assert not rate.take(100.0)
    rate = MessageRate(2, 100.0)
    assert all(rate.take(100.0 + number / 2) for number in range(1000))
    assert all(rate.take(700.0) for _ in range(2 * BURST))
    assert not rate.take(700.0)


def test_answers_do_not_count_but_there_is_an_end_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALL_OFFERS_BURST", 2 * MAX_ANSWERS)
    rate = MessageRate(2, 100.0)
    assert rate.takes_offer_of("somebody", 100.0)
    assert all(rate.take(100.0) for _ in range(2 * BURST + ANSWER))
    assert not rate.take(100.0)
    rate = MessageRate(1, 100.0)
    for number in range(MAX_ANSWERS):
        assert rate.takes_offer_of(number, 100.0)
    assert all(rate.take(100.0) for _ in range(BURST + MAX_ANSWERS))
    assert not rate.take(100.0)


def test_so_many_offers_of_one_address() -> None:
    rate = MessageRate(50, 100.0)
    assert [rate.takes_offer_of("flood", 100.0) for _ in range(OFFERS_BURST + 1)] == [True] * OFFERS_BURST + [False]
    taken = sum(rate.takes_offer_of("flood", 100.0 + number / 450) for number in range(4500))
    assert OFFERS * 10 - 1 <= taken <= OFFERS * 10 + 1
    assert rate.takes_offer_of("honest", 110.0)


def test_all_connections_that_an_address_may_have_can_come_back_at_once() -> None:
    rate = MessageRate(50, 100.0, 300)
    assert all(rate.takes_offer_of("behind a NAT", 100.0) for _ in range(300))
    assert rate.takes_offer_of("another", 100.0)


def test_so_many_offers_of_all_addresses_and_whoever_makes_few_goes_first() -> None:
    rate = MessageRate(50, 100.0)
    taken = 0
    for number in range(100_000):
        now = 100 + number / 1000
        taken += rate.takes_offer_of(number % 50, now)
        if number % 10_000 == 9_999:
            assert rate.takes_offer_of("honest", now)
    assert taken <= ALL_OFFERS_BURST + ALL_OFFERS * 100


def test_invitations_are_not_tried_in_bulk() -> None:
    clock = Clock()
    rate = InvitationRate(clock)
    tried = [rate.take("guesser") for _ in range(INVITATIONS_BURST + 1)]
    assert tried == [True] * INVITATIONS_BURST + [False]
    taken = 0
    for _ in range(24 * 60):
        clock.advance(60)
        taken += sum(rate.take("guesser") for _ in range(3))
    assert 24 * 10 <= taken <= 24 * 10 + INVITATIONS_BURST
    assert rate.take("honest")


def test_invitations_are_not_tried_in_bulk_from_many_addresses() -> None:
    clock = Clock()
    rate = InvitationRate(clock)
    taken = 0
    for number in range(36_000):
        clock.advance(0.1)
        taken += rate.take(number % 1000)
    assert ALL_INVITATIONS_BURST / 2 <= taken <= ALL_INVITATIONS_BURST + 720
    assert rate.take("honest")
