"""How many messages a peer may send to the signaling server."""

from __future__ import annotations

from rtunnel.rtc.signaling.protocol import ANSWER, BURST, MOST_ANSWERS, Bucket


def test_so_many_messages_a_second_and_a_burst() -> None:
    bucket = Bucket(2, 100.0)
    assert all(bucket.take(100.0) for _ in range(2 * BURST))
    assert not bucket.take(100.0)
    bucket = Bucket(2, 100.0)
    assert all(bucket.take(100.0 + number / 2) for number in range(1000))
    assert all(bucket.take(700.0) for _ in range(2 * BURST))
    assert not bucket.take(700.0)


def test_answers_do_not_count_but_there_is_an_end_to_them() -> None:
    bucket = Bucket(2, 100.0)
    bucket.ask_for(ANSWER)
    assert all(bucket.take(100.0) for _ in range(2 * BURST + ANSWER))
    assert not bucket.take(100.0)
    bucket = Bucket(1, 100.0)
    for _ in range(MOST_ANSWERS):
        bucket.ask_for(ANSWER)
    assert all(bucket.take(100.0) for _ in range(BURST + MOST_ANSWERS))
    assert not bucket.take(100.0)
