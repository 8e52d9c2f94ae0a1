"""Messages are put together from chunks in any order."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import NamedTuple

from aiortc.rtcsctptransport import DataChunk
from hypothesis import given, strategies as st

from rtunnel.rtc.aiortc.inbound import Message, Reassembly, Stream
from tests.rtc.aiortc.sctp_parts import FIRST, LAST, UNORDERED


class Sent(NamedTuple):
    """A message that a peer sends."""

    stream: int
    ordered: bool
    fragments: int


SENT = st.lists(st.builds(Sent, st.integers(0, 3), st.booleans(), st.integers(1, 4)), max_size=20)
#: Numbers of 32 bits begin anew in the middle.
TSN = st.sampled_from([1, 2**31 - 5, 2**32 - 10])


def chunks_of(messages: list[Sent], tsn: int, number: int) -> list[list[DataChunk]]:
    """The chunks of each message, whose text is its place in the list and that of the fragment."""
    numbers: defaultdict[int, int] = defaultdict(lambda: number)
    found = []
    for place, message in enumerate(messages):
        found.append(list[DataChunk]())
        for fragment in range(message.fragments):
            flags = (FIRST if not fragment else 0) | (LAST if fragment == message.fragments - 1 else 0)
            chunk = DataChunk(flags if message.ordered else flags | UNORDERED)
            chunk.tsn, tsn = tsn, (tsn + 1) % 2**32
            chunk.stream_id, chunk.protocol = message.stream, 53
            chunk.stream_seq = numbers[message.stream] if message.ordered else 0
            chunk.user_data = f"{place}.{fragment} ".encode()
            found[-1].append(chunk)
        numbers[message.stream] = (numbers[message.stream] + message.ordered) % 2**16
    return found


def streams(number: int) -> defaultdict[int, Stream]:
    """Streams whose next message has this number."""

    def make() -> Stream:
        made = Stream()
        made.sequence_number = number
        return made

    return defaultdict(make)


def text(chunks: list[DataChunk]) -> bytes:
    return b"".join(chunk.user_data for chunk in chunks)


@given(SENT, TSN, st.sampled_from([0, 2**15 - 2, 2**16 - 3]), st.randoms(use_true_random=False))
def test_everything_arrives_once_and_in_order(
    messages: list[Sent], tsn: int, number: int, source: random.Random
) -> None:
    chunks, kept, known = chunks_of(messages, tsn, number), Reassembly(), streams(number)
    mixed = [chunk for some in chunks for chunk in some]
    source.shuffle(mixed)
    got: list[Message] = []
    for chunk in mixed:
        got += kept.add(chunk, known[chunk.stream_id])
    assert sorted(data for _, _, data in got) == sorted(map(text, chunks))
    for stream in range(4):
        expected = [text(some) for some, sent in zip(chunks, messages, strict=True) if sent[:2] == (stream, True)]
        assert [data for where, _, data in got if where == stream and data in expected] == expected
    assert len(kept) == 0
    assert not (kept._last_of)
    assert not (kept._first_of)
    assert not (any(stream.waiting for stream in known.values()))


@given(SENT, TSN, st.data())
def test_messages_that_are_given_up_hold_nothing_up(messages: list[Sent], tsn: int, data: st.DataObject) -> None:
    chunks, kept, known = chunks_of(messages, tsn, 0), Reassembly(), streams(0)
    given_up = {place for place in range(len(messages)) if data.draw(st.booleans())}
    got: list[Message] = []
    arrive = [chunk for place, some in enumerate(chunks) for chunk in (some[1:] if place in given_up else some)]
    data.draw(st.randoms(use_true_random=False)).shuffle(arrive)
    for chunk in arrive:
        got += kept.add(chunk, known[chunk.stream_id])
    # The last chunk of all was sent, or was given up as well.
    for place in sorted(given_up):
        if messages[place].ordered:
            got += kept.skip(known[messages[place].stream], chunks[place][0].stream_seq)
    if chunks:
        kept.prune(chunks[-1][-1].tsn)
    expected = [text(some) for place, some in enumerate(chunks) if place not in given_up]
    assert sorted(data for _, _, data in got) == sorted(expected)
    assert len(kept) == 0
    assert kept.released == sum(len(text(chunks[place][1:])) for place in given_up)


@given(SENT, TSN, st.integers(0, 40), st.randoms(use_true_random=False))
def test_what_lacks_nothing_is_not_dropped(messages: list[Sent], tsn: int, count: int, source: random.Random) -> None:
    """The peer gives up nothing, but a FORWARD-TSN tells so much of what it has sent."""
    chunks, kept, known = chunks_of(messages, tsn, 0), Reassembly(), streams(0)
    flat = [chunk for some in chunks for chunk in some]
    early, late = flat[:count], flat[count:]
    source.shuffle(early)
    got: list[Message] = []
    for chunk in early:
        got += kept.add(chunk, known[chunk.stream_id])
    if early:
        kept.prune(flat[len(early) - 1].tsn)
    for chunk in late:
        got += kept.add(chunk, known[chunk.stream_id])
    assert sorted(data for _, _, data in got) == sorted(map(text, chunks))
    assert kept.released == 0


@given(SENT, TSN, st.integers(0, 3))
def test_a_stream_that_is_reset_leaves_nothing(messages: list[Sent], tsn: int, stream: int) -> None:
    chunks, kept, known = chunks_of(messages, tsn, 0), Reassembly(), streams(0)
    last = [some[-1] for some in chunks if len(some) > 1]
    for chunk in last:
        assert not list(kept.add(chunk, known[chunk.stream_id]))
    kept.drop({stream})
    assert len(kept) == sum(chunk.stream_id != stream for chunk in last)
