"""What a peer sends to :class:`Inbound`, and a simple reference of what must come of it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import strategies as st

from rtunnel.wire.sctp.chunks import BEGIN, END, UNORDERED
from rtunnel.wire.sctp.reassembly import Message
from rtunnel.wire.sctp.receiving import Inbound

WINDOW = 1024 * 1024
BINARY = 53


class Sent(NamedTuple):
    """A message that a peer sends."""

    stream: int
    ordered: bool
    fragments: int


SENT = st.lists(st.builds(Sent, st.integers(0, 3), st.booleans(), st.integers(1, 4)), max_size=20)
#: Numbers of 32 bits begin anew in the middle.
TSN = st.sampled_from([0, 1, 2**31 - 5, 2**32 - 10])


class Chunk(NamedTuple):
    """A DATA or I-DATA chunk, with a TSN that is not masked."""

    tsn: int
    flags: int
    stream: int
    number: int
    kind: int
    payload: bytes

    def put(self, inbound: Inbound, interleaved: bool) -> None:
        put = inbound.i_data if interleaved else inbound.data
        mask = 0xFFFFFFFF if interleaved else 0xFFFF
        put(self.tsn & 0xFFFFFFFF, self.flags, self.stream, self.number & mask, self.kind, self.payload)


@dataclass(eq=False)
class Plan:
    """A message and its chunks."""

    sent: Sent
    number: int
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def message(self) -> Message:
        return self.sent.stream, BINARY, b"".join(chunk.payload for chunk in self.chunks)


def plan(messages: list[Sent], first_tsn: int, interleaved: bool, source: random.Random) -> list[Plan]:
    """The chunks of messages, as a peer sends them. Messages of different kinds are interleaved if that is agreed."""
    numbers: defaultdict[tuple[int, bool], int] = defaultdict(int)
    plans = []
    for sent in messages:
        lane = (sent.stream, sent.ordered)
        plans.append(Plan(sent, numbers[lane]))
        numbers[lane] += sent.ordered or interleaved
    lanes: defaultdict[object, list[tuple[Plan, int]]] = defaultdict(list)
    for one in plans:
        lanes[one.sent[:2] if interleaved else None] += [(one, fragment) for fragment in range(one.sent.fragments)]
    tsn = first_tsn
    while lanes:
        key = source.choice(list(lanes))
        one, fragment = lanes[key].pop(0)
        if not lanes[key]:
            del lanes[key]
        flags = (BEGIN if not fragment else 0) | (END if fragment == one.sent.fragments - 1 else 0)
        flags |= 0 if one.sent.ordered else UNORDERED
        kind = fragment if interleaved and fragment else BINARY
        payload = f"{plans.index(one)}.{fragment} ".encode()
        one.chunks.append(Chunk(tsn, flags, one.sent.stream, one.number, kind, payload))
        tsn += 1
    return plans


class Reference:
    """What was received, by the book and without any haste."""

    def __init__(self, plans: list[Plan], first_tsn: int, interleaved: bool) -> None:
        self.plans = plans
        self.interleaved = interleaved
        self.cumulative = first_tsn - 1
        #: TSNs that came.
        self.received: set[int] = set()
        #: The next ordered message of each stream.
        self.following: defaultdict[int, int] = defaultdict(int)
        self.done: set[Plan] = set()
        self.messages: list[Message] = []

    def data(self, chunk: Chunk) -> None:
        if chunk.tsn > self.cumulative and chunk.tsn not in self.received:
            self.received.add(chunk.tsn)
            self._advance()
            plan = next(one for one in self.plans if chunk in one.chunks)
            if not plan.sent.ordered and self._is_whole(plan) and plan not in self.done:
                self._deliver(plan)
            self._deliver_in_order()

    def forward(self, tsn: int, given_up: Iterable[Plan]) -> None:
        if tsn <= self.cumulative:
            return
        self.cumulative = tsn
        self._advance()
        for one in given_up:
            stream = one.sent.stream
            if one.sent.ordered:
                for other in self.plans:
                    if other.sent[:2] == (stream, True) and self.following[stream] <= other.number <= one.number:
                        if self._is_whole(other):
                            self._deliver(other)
                        elif self.interleaved:
                            self.done.add(other)
                self.following[stream] = max(self.following[stream], one.number + 1)
            elif self.interleaved:
                self.done.add(one)
        self._deliver_in_order()

    @property
    def gaps(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for tsn in sorted(self.received):
            offset = tsn - self.cumulative
            if offset > 0 and found and found[-1][1] == offset - 1:
                found[-1] = (found[-1][0], offset)
            elif offset > 0:
                found.append((offset, offset))
        return found

    @property
    def kept(self) -> int:
        """Bytes that wait for others."""
        waiting = [one for one in self.plans if one not in self.done]
        return sum(len(chunk.payload) for one in waiting for chunk in one.chunks if self._is_kept(chunk, one))

    def _advance(self) -> None:
        while self.cumulative + 1 in self.received:
            self.cumulative += 1

    def _is_whole(self, plan: Plan) -> bool:
        return all(chunk.tsn in self.received for chunk in plan.chunks)

    def _is_kept(self, chunk: Chunk, plan: Plan) -> bool:
        """Whether a chunk was received and a neighbour on each side may still come."""
        if chunk.tsn not in self.received or self.interleaved:
            return chunk.tsn in self.received
        first, last = plan.chunks[0].tsn, plan.chunks[-1].tsn
        before = next((tsn for tsn in range(chunk.tsn, first - 1, -1) if tsn not in self.received), None)
        behind = next((tsn for tsn in range(chunk.tsn, last + 1) if tsn not in self.received), None)
        return not any(tsn is not None and tsn <= self.cumulative for tsn in (before, behind))

    def _deliver(self, plan: Plan) -> None:
        self.done.add(plan)
        self.messages.append(plan.message)

    def _deliver_in_order(self) -> None:
        for one in self.plans:
            if one.sent.ordered and one not in self.done and self._is_whole(one):
                if one.number == self.following[one.sent.stream]:
                    self.following[one.sent.stream] += 1
                    self._deliver(one)
                elif one.number < self.following[one.sent.stream]:
                    self.done.add(one)
