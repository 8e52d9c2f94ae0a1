"""Chunks come in any order, some twice and some never: what is received is what the reference says, step by step."""

from __future__ import annotations

import random

from hypothesis import given, strategies as st

from rtunnel.wire.sctp.receiving import Inbound
from tests.wire.sctp.inbound_parts import SENT, TSN, WINDOW, Plan, Reference, Sent, plan


def agree(inbound: Inbound, reference: Reference) -> None:
    cumulative, window, gaps, _ = inbound.take_sack(1000)
    assert cumulative == inbound.cumulative == reference.cumulative
    assert gaps == reference.gaps
    assert sorted(inbound.messages) == sorted(reference.messages)
    for stream in range(4):
        ordered = [one.message for one in reference.plans if one.sent[:2] == (stream, True)]
        got = [message for message in inbound.messages if message in ordered]
        assert got == [message for message in reference.messages if message in ordered]
        assert got == [message for message in ordered if message in got]
    assert window == WINDOW - reference.kept


def disturbed(count: int, source: random.Random) -> list[int]:
    """Places of chunks as they come: a little or wholly out of order, some of them twice."""
    reach = source.choice([0, 3, 10, 100])
    places = [place for place in range(count) for _ in range(1 + (source.random() < 0.2))]
    return sorted(places, key=lambda place: place + source.random() * reach)


@given(messages=SENT, tsn=TSN, source=st.randoms(use_true_random=False), interleaved=st.booleans())
def test_everything_arrives_once_and_in_order(
    interleaved: bool, messages: list[Sent], tsn: int, source: random.Random
) -> None:
    plans = plan(messages, tsn, interleaved, source)
    chunks = sorted(chunk for one in plans for chunk in one.chunks)
    inbound, reference = Inbound(tsn, WINDOW, 4, interleaved), Reference(plans, tsn, interleaved)
    came: set[int] = set()
    for place in disturbed(len(chunks), source):
        chunks[place].put(inbound, interleaved)
        reference.data(chunks[place])
        assert inbound.sack_due
        assert inbound.sack_now or not (reference.gaps or place in came)
        came.add(place)
        agree(inbound, reference)
        assert (inbound.sack_due, inbound.sack_now) == (False, False)
    assert sorted(inbound.messages) == sorted(one.message for one in plans)
    assert inbound.kept == 0
    assert inbound.chunks_received == len(chunks)


@given(messages=SENT, tsn=TSN, source=st.randoms(use_true_random=False), interleaved=st.booleans())
def test_messages_that_are_given_up_hold_nothing_up(
    interleaved: bool, messages: list[Sent], tsn: int, source: random.Random
) -> None:
    plans = plan(messages, tsn, interleaved, source)
    chunks = sorted(chunk for one in plans for chunk in one.chunks)
    inbound, reference = Inbound(tsn, WINDOW, 4, interleaved), Reference(plans, tsn, interleaved)
    given_up = [one for one in plans if source.random() < 0.3]
    never = {chunk for one in given_up for chunk in one.chunks if source.random() < 0.5}

    def forward(everything: bool = False) -> None:
        """The peer has seen the last SACK, and gives up what it may. Sometimes it stops earlier than it must."""
        may = {chunk.tsn for one in given_up for chunk in one.chunks} | reference.received
        furthest = reference.cumulative
        while furthest + 1 in may and (everything or source.random() < 0.9):
            furthest += 1
        told = [one for one in given_up if any(reference.cumulative < chunk.tsn <= furthest for chunk in one.chunks)]
        put_forward(inbound, furthest, told, interleaved)
        reference.forward(furthest, told)

    for place in disturbed(len(chunks), source):
        if chunks[place] not in never:
            chunks[place].put(inbound, interleaved)
            reference.data(chunks[place])
        if source.random() < 0.3:
            forward()
        agree(inbound, reference)
    forward(everything=True)
    agree(inbound, reference)
    assert inbound.cumulative == tsn + len(chunks) - 1
    assert {one.message for one in plans if one not in given_up} <= set(inbound.messages)
    assert inbound.kept == 0


@given(messages=SENT, tsn=TSN, source=st.randoms(use_true_random=False), interleaved=st.booleans())
def test_everything_passes_through_a_small_window(
    messages: list[Sent], tsn: int, source: random.Random, interleaved: bool
) -> None:
    """The peer keeps to the window, half of all is lost, and the reader is slow."""
    plans = plan(messages, tsn, interleaved, source)
    chunks = sorted(chunk for one in plans for chunk in one.chunks)
    inbound = Inbound(tsn, 60, 4, interleaved)
    window, left, held = 60, chunks, 0
    for _ in range(1000):
        if not left:
            break
        flight = 0
        for chunk in left:
            # With nothing in flight, one may be sent whatever the window.
            if flight and flight + len(chunk.payload) > window:
                break
            flight += len(chunk.payload)
            if source.random() < 0.5:
                before = len(inbound.messages)
                chunk.put(inbound, interleaved)
                count = sum(len(payload) for _, _, payload in inbound.messages[before:])
                inbound.hold(count)
                held += count
        cumulative, window, gaps, _ = inbound.take_sack(1000)
        assert window == max(60 - held - inbound._reassembly.size, 0)
        acknowledged = {offset for first, last in gaps for offset in range(first, last + 1)}
        left = [one for one in left if one.tsn > cumulative and one.tsn - cumulative not in acknowledged]
        count = source.randint(0, held)
        inbound.release(count)
        held -= count
    assert not left
    assert sorted(inbound.messages) == sorted(one.message for one in plans)
    assert inbound.kept == 0


def put_forward(inbound: Inbound, tsn: int, given_up: list[Plan], interleaved: bool) -> None:
    """Messages in order are named by the last of their stream."""
    if interleaved:
        lanes = {(one.sent.stream, not one.sent.ordered): one.number for one in given_up}
        inbound.i_forward(tsn & 0xFFFFFFFF, [(*lane, number) for lane, number in lanes.items()])
    else:
        streams = {one.sent.stream: one.number for one in given_up if one.sent.ordered}
        inbound.forward(tsn & 0xFFFFFFFF, streams.items())


@given(messages=SENT, tsn=TSN, source=st.randoms(use_true_random=False))
def test_numbers_begin_anew_after_their_largest(messages: list[Sent], tsn: int, source: random.Random) -> None:
    """Stream sequence numbers have 16 bits."""
    plans = plan(messages, tsn + 1, False, source)
    chunks = sorted(chunk for one in plans for chunk in one.chunks)
    inbound = Inbound(tsn, WINDOW, 4, False)
    passed = 2**16 - 3
    # Three steps, as one is at most half of the numbers.
    for number in (2**15 - 1, 2**15 - 1 + 2**14, passed - 1):
        inbound.cumulative = tsn - 1
        inbound.forward(tsn & 0xFFFFFFFF, [(stream, number) for stream in range(4)])
    for place in disturbed(len(chunks), source):
        chunk = chunks[place]
        chunk._replace(number=chunk.number + passed).put(inbound, False)
    assert sorted(inbound.messages) == sorted(one.message for one in plans)
    for stream in range(4):
        ordered = [one.message for one in plans if one.sent[:2] == (stream, True)]
        assert [message for message in inbound.messages if message in ordered] == ordered
    assert inbound.kept == 0
