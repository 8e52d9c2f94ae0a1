"""Resets of streams over bad paths, and by peers that send anything."""

from __future__ import annotations

import random
import struct

from hypothesis import given, strategies as st

from rtunnel.wire.sctp.chunks import ProtocolError
from rtunnel.wire.sctp.reset import MAX_ANSWERS, Resets
from tests.wire.sctp.test_reset import OURS, THEIRS, TIMEOUT, parameter, resets


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda kind, number, rest: parameter(kind, struct.pack("!I", (THEIRS + number) % 2**32) + rest),
                st.integers(12, 19),
                st.integers(-3, 3),
                st.binary(max_size=30),
            ),
        ),
        max_size=20,
    )
)
def test_any_bytes_are_taken_or_break_the_protocol(bodies: list[bytes]) -> None:
    end = resets()
    for stream in range(5):
        end.request(stream)
    for now, body in enumerate(bodies):
        try:
            end.receive(body, 1000)
        except ProtocolError:
            return
        assert len(end.take(set().__contains__, 1000, TIMEOUT, float(now))) <= MAX_ANSWERS + 1
        assert len(end.confirmed) + len(end.refused) <= 5


@given(st.integers(0, 2**32), st.floats(0.0, 0.6), st.floats(0.0, 0.5))
def test_two_ends_reset_every_stream_once_over_any_path(seed: int, loss: float, copies: float) -> None:
    """Each request is confirmed, and the other end has reset the stream exactly once, whatever is lost or repeated."""
    chance = random.Random(seed)
    ends = Resets(OURS, THEIRS, 100), Resets(THEIRS, OURS, 100)
    arrived = [0, 0]
    wanted = [set(chance.sample(range(100), 30)) for _ in ends]
    asked: list[set[int]] = [set(), set()]
    performed: list[list[int]] = [[], []]
    confirmed: list[list[int]] = [[], []]
    under_way: list[tuple[int, bytes]] = []
    now = 0.0
    for _ in range(2000):
        now += chance.uniform(0.0, 2.0)
        for side, end in enumerate(ends):
            if wanted[side] - asked[side] and chance.random() < 0.3:
                stream = chance.choice(sorted(wanted[side] - asked[side]))
                asked[side].add(stream)
                end.request(stream)
            # What the other end must have before: sometimes more than it has.
            for body in end.take(set().__contains__, arrived[1 - side] + chance.choice((0, 0, 5)), TIMEOUT, now):
                under_way += [(1 - side, body)] * ((chance.random() >= loss) + (chance.random() < copies))
            arrived[side] += 1
            if end.deferred_to is not None and end.deferred_to <= arrived[side]:
                end.arrived(arrived[side])
        chance.shuffle(under_way)
        while under_way and chance.random() < 0.8:
            side, body = under_way.pop()
            ends[side].receive(body, arrived[side])
        for side, end in enumerate(ends):
            performed[side] += end.by_peer
            confirmed[side] += end.confirmed
            end.by_peer.clear()
            end.confirmed.clear()
            # Nothing is confirmed that the other end has not done.
            assert set(confirmed[side]) <= set(performed[1 - side]) | set(ends[1 - side].by_peer)
        if all(len(confirmed[side]) == 30 for side in (0, 1)):
            break
    for side in 0, 1:
        assert set(confirmed[side]) == wanted[side]
        assert sorted(performed[1 - side]) == sorted(wanted[side])
        assert ends[side].refused == []
