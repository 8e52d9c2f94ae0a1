"""How fast a peer of the signaling server may send, without a connection."""

from __future__ import annotations

from rtunnel.rtc.signaling.limits import ANSWER, BURST, MAX_ANSWERS, MessageRate


def test_so_many_messages_a_second_and_a_burst() -> None:
    rate = MessageRate(2, 100.0)
    assert all(rate.take(100.0) for _ in range(2 * BURST))
    assert not rate.take(100.0)
    rate = MessageRate(2, 100.0)
    assert all(rate.take(100.0 + number / 2) for number in range(1000))
    assert all(rate.take(700.0) for _ in range(2 * BURST))
    assert not rate.take(700.0)


def test_answers_do_not_count_but_there_is_an_end_to_them() -> None:
    rate = MessageRate(2, 100.0)
    rate.allow_answer()
    assert all(rate.take(100.0) for _ in range(2 * BURST + ANSWER))
    assert not rate.take(100.0)
    rate = MessageRate(1, 100.0)
    for _ in range(MAX_ANSWERS):
        rate.allow_answer()
    assert all(rate.take(100.0) for _ in range(BURST + MAX_ANSWERS))
    assert not rate.take(100.0)
