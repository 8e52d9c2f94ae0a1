"""conn_ids: one counter for all links of a server, so that bytes under an old conn_id reach nobody."""

from __future__ import annotations

from hypothesis import given, strategies as st

from rtunnel.wire.link import Link
from rtunnel.wire.server_link import ServerLink, StreamIds
from tests.wire.pair import LIMITS, NOW, Lone, hello, open_on_server

LAST = 2**32 - 1


def test_a_random_start() -> None:
    starts = {StreamIds().allocate() for _ in range(20)}
    assert len(starts) == 20
    assert all(1 <= start <= 2**31 for start in starts)


def test_wrapping_skips_0() -> None:
    ids = StreamIds(LAST - 1)
    assert [ids.allocate() for _ in range(4)] == [LAST - 1, LAST, 1, 2]


def test_an_id_that_is_over_comes_again_only_after_all_others() -> None:
    ids = StreamIds(5)
    first = ids.allocate()
    ids.release(first)
    assert ids.allocate() == 6


def test_a_live_id_is_passed_over() -> None:
    ids = StreamIds(LAST)
    assert [ids.allocate() for _ in range(3)] == [LAST, 1, 2]
    ids.release(1)
    ids._next = LAST
    assert [ids.allocate() for _ in range(2)] == [1, 3]


def test_releasing_twice_is_harmless() -> None:
    ids = StreamIds(5)
    ids.release(ids.allocate())
    ids.release(5)
    ids.release(77)


@given(st.lists(st.integers(0, 5)))
def test_no_two_live_ids_are_equal(steps: list[int]) -> None:
    ids = StreamIds(LAST - 3)
    live: list[int] = []
    for step in steps:
        if step and live:
            ids.release(live.pop(step % len(live)))
        else:
            live.append(ids.allocate())
            if len(live) % 3 == 0:
                ids._next = LAST - 3
        assert len(set(live)) == len(live)
        assert all(1 <= conn_id <= LAST for conn_id in live)


def make_links(ids: StreamIds, count: int) -> list[Lone[ServerLink]]:
    return [Lone(ServerLink(hello(), LIMITS, NOW, ids)) for _ in range(count)]


def test_links_share_the_counter() -> None:
    first, second = make_links(StreamIds(10), 2)
    found = [open_on_server(lone).conn_id for lone in (first, second, second, first)]
    assert found == [10, 11, 12, 13]


def test_an_id_is_free_again_when_its_stream_is_over() -> None:
    ids = StreamIds(10)
    (lone,) = make_links(ids, 1)
    link: Link = lone.link
    streams = [open_on_server(lone) for _ in range(3)]
    link.reset(streams[0], "test", "")
    link.finish(streams[1])
    lone.sent()
    assert ids._live == {12}
    link.close("test", "")
    link.reset(streams[2], "test", "")
    assert ids._live == set()
