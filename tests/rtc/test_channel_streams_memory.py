"""Streams over data channels and the process's budget of memory: what they hold, and how they give it up."""

from __future__ import annotations

import json

import pytest

from rtunnel.errors import Code
from rtunnel.upkeep.memory import STREAM
from rtunnel.wire.halves import HIGH_WATER
from tests.rtc.streams import LIMITS, Lone, Pair


def held(pair: Pair, end: int) -> int:
    return sum(count - STREAM for count, _ in pair.ends[end].holdings())


@pytest.mark.parametrize("reference", [False, True], ids=["rtunnel", "reference"])
def test_what_waits_at_either_end_is_held(reference: bool) -> None:
    pair = Pair(reference=reference)
    one, two = pair.open()
    window = LIMITS.initial_credit
    one.stream.write(bytes(window + HIGH_WATER))
    pair.settle()
    assert held(pair, 0) + held(pair, 1) == window + HIGH_WATER
    assert held(pair, 1) >= window
    two.read()
    pair.settle()
    assert held(pair, 0) == held(pair, 1) == 0


@pytest.mark.parametrize("reference", [False, True], ids=["rtunnel", "reference"])
def test_a_stream_that_is_given_up_holds_nothing(reference: bool) -> None:
    pair = Pair(reference=reference)
    one, two = pair.open()
    one.stream.write(bytes(1000))
    pair.settle()
    ((count, stream),) = pair.ends[1].holdings()
    assert count == 1000 + STREAM
    pair.ends[1].give_up(stream)
    assert two.reset == (Code.STALLED, "the process is short of memory (--memory)")
    pair.settle()
    assert (one.reset is not None) or "closed" in one.told
    pair.nothing_left()


def test_what_came_before_a_reset_is_held_until_it_is_delivered() -> None:
    lone = Lone()
    user, channel, _ = lone.by_hand()
    user.keeps = True
    channel.send(bytes(1000))
    channel.send_text(json.dumps({"reset": "connection-lost"}))
    lone.settle()
    assert len(lone.ends[0]) == 0
    ((count, stream),) = lone.ends[0].holdings()
    assert count == 1000 + STREAM
    lone.ends[0].give_up(stream)
    assert list(lone.ends[0].holdings()) == []
    lone.nothing_left()


def test_an_end_that_is_full_takes_no_more_streams() -> None:
    pair = Pair()
    one, _ = pair.open()
    pair.ends[1].buffer.windows.is_full = True
    refused = pair.start()
    pair.settle()
    assert refused.reset is not None
    assert refused.reset[0] == Code.LIMIT
    assert one.reset is None
    pair.ends[1].buffer.windows.is_full = False
    pair.open()
