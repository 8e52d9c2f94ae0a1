"""The queue that streams of links and of data channels share: bytes in order, in few pieces, counted."""

from __future__ import annotations

from hypothesis import given, strategies as st

from rtunnel.wire.credit import ReceiveWindow, SendWindow
from rtunnel.wire.halves import SMALL_CHUNK, StreamHalves


def halves() -> StreamHalves:
    return StreamHalves(SendWindow(None), ReceiveWindow(0, 0.0))


@given(st.lists(st.one_of(st.binary(max_size=3 * SMALL_CHUNK), st.integers(0, 3 * SMALL_CHUNK)), max_size=30))
def test_bytes_come_out_in_order_however_they_are_cut(steps: list[bytes | int]) -> None:
    stream, model = halves(), b""
    for step in steps:
        if isinstance(step, bytes):
            assert stream.put(step) is bool(step)
            model += step
        else:
            pieces = stream.take(step)
            assert all(pieces), "no piece is empty"
            assert b"".join(pieces) == model[:step]
            model = model[step:]
        assert stream.queued == len(model)
        assert bool(stream.chunks) is bool(model)


def test_small_pieces_are_joined() -> None:
    stream = halves()
    for _ in range(2 * SMALL_CHUNK):
        stream.put(b"x")
    assert [len(piece) for piece in stream.take(2 * SMALL_CHUNK)] == [SMALL_CHUNK, SMALL_CHUNK]


def test_a_large_piece_is_not_copied() -> None:
    stream = halves()
    data = bytes(SMALL_CHUNK + 1)
    stream.put(data)
    assert stream.take(len(data))[0] is data


def test_nothing_is_queued_behind_the_end() -> None:
    stream = halves()
    assert stream.put(b"last")
    stream.ending = True
    assert not stream.put(b"late")
    assert stream.take(100) == [b"last"]


def test_nothing_is_queued_once_it_is_over() -> None:
    stream = halves()
    stream.put(bytes(2 * SMALL_CHUNK))
    stream.take(10)
    stream.open = False
    stream.drop()
    assert (stream.queued, stream.take(10)) == (0, [])
    assert not stream.put(b"late")
