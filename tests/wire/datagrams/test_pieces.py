"""Pieces come in any order or not at all, and what is kept of them is bounded."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.datagrams.messages import MAX_MESSAGE, PIECE
from rtunnel.wire.datagrams.packets import OVERHEAD
from rtunnel.wire.datagrams.path_mtu import BASE
from rtunnel.wire.datagrams.pieces import MAX_KEPT, MAX_MESSAGES, MAX_PIECES, TOGETHER, Assembler, cut

MOST = BASE - OVERHEAD


def piece(id: int, index: int, count: int, part: bytes = b"x") -> bytes:
    """Encode a piece by hand."""
    return bytes((PIECE,)) + id.to_bytes(4, "big") + bytes((index, count)) + part


def content(assembler: Assembler) -> int:
    """Count the bytes that are kept."""
    return sum(len(part) for message in assembler._messages.values() for part in message.parts if part is not None)


def test_the_bytes_of_pieces() -> None:
    assert cut(b"hello", 10, 7) == [piece(7, 0, 2, b"hel"), piece(7, 1, 2, b"lo")]


@given(st.integers(1, MAX_MESSAGE), st.sampled_from([MOST, 1400, 8972, 60000]), st.randoms(use_true_random=False))
def test_any_order(length: int, most: int, random: Any) -> None:
    message = bytes(number % 251 for number in range(length))
    pieces = cut(message, most, 2**32 - 1)
    assert len(pieces) <= MAX_PIECES
    assert all(len(part) <= most for part in pieces)
    assert max(map(len, pieces)) - min(map(len, pieces)) <= len(pieces)
    random.shuffle(pieces)
    assembler = Assembler()
    found = [assembler.add(part, 0.0) for part in pieces]
    assert found == [None] * (len(pieces) - 1) + [message]
    assert assembler.held == content(assembler) == 0
    assert not assembler._messages


def test_the_longest_message_has_room_in_the_smallest_packets() -> None:
    assert len(cut(bytes(MAX_MESSAGE), MOST, 1)) <= MAX_PIECES


def test_a_message_that_takes_too_many() -> None:
    assert len(cut(bytes(MAX_PIECES * 3), 10, 1)) == MAX_PIECES
    with pytest.raises(ValueError, match="takes 65 pieces"):
        cut(bytes(MAX_PIECES * 3 + 1), 10, 1)


def test_a_second() -> None:
    assembler = Assembler()
    assert assembler.add(piece(1, 0, 2), 10.0) is None
    assert assembler.add(piece(2, 0, 2), 10.5) is None
    assert assembler.add(piece(1, 1, 2), 10.0 + TOGETHER - 0.01) == b"xx"
    assert assembler.add(piece(2, 1, 2), 10.5 + TOGETHER) is None
    assert assembler.held == 1
    assembler.tick(10.5 + 2 * TOGETHER)
    assert assembler.held == content(assembler) == 0
    assert not assembler._messages


def test_a_piece_that_comes_again() -> None:
    assembler = Assembler()
    for _ in range(3):
        assert assembler.add(piece(1, 0, 2, b"a"), 0.0) is None
    assert assembler.held == 1
    assert assembler.add(piece(1, 0, 2, b"other"), 0.0) is None
    assert assembler.add(piece(1, 1, 2, b"b"), 0.0) == b"ab"


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        bytes((PIECE,)),
        piece(1, 0, 1, b""),
        piece(1, 0, 0),
        piece(1, 1, 1),
        piece(1, 2, 2),
        piece(1, 0, 65),
        piece(1, 64, 65),
        piece(1, 255, 255),
        # One that is kept has two.
        piece(9, 0, 3),
        piece(9, 2, 3),
        piece(9, 0, 1),
    ],
)
def test_malformed(bad: bytes) -> None:
    assembler = Assembler()
    assembler.add(piece(9, 0, 2, b"a"), 0.0)
    with pytest.raises(ValueError, match="PIECE"):
        assembler.add(bad, 0.0)
    assert assembler.held == 1
    assert assembler.add(piece(9, 1, 2, b"b"), 0.0) == b"ab"


def test_messages_do_not_mix() -> None:
    assembler = Assembler()
    ids = [0, 1, 2**32 - 1]
    for id in ids:
        assert assembler.add(piece(id, 1, 2, b"-%d" % id), 0.0) is None
    assert [assembler.add(piece(id, 0, 2, b"%d" % id), 0.0) for id in ids] == [b"%d-%d" % (id, id) for id in ids]


def test_a_message_that_is_too_long() -> None:
    assembler = Assembler()
    assembler.add(piece(1, 0, 3, bytes(MAX_MESSAGE - 1)), 0.0)
    assembler.add(piece(1, 1, 3, b"x"), 0.0)
    with pytest.raises(ValueError, match="too long"):
        assembler.add(piece(1, 2, 3, b"x"), 0.0)
    assert assembler.held == 0
    assembler.add(piece(2, 0, 2, bytes(MAX_MESSAGE - 1)), 0.0)
    assert assembler.add(piece(2, 1, 2, b"x"), 0.0) == bytes(MAX_MESSAGE - 1) + b"x"


def test_the_oldest_gives_way() -> None:
    assembler = Assembler()
    for id in range(MAX_MESSAGES + 1):
        assembler.add(piece(id, 0, 2), 0.0)
    assert list(assembler._messages) == list(range(1, MAX_MESSAGES + 1))
    part = bytes(60000)
    for id in range(1000, 1000 + MAX_KEPT // len(part) + 5):
        assembler.add(piece(id, 0, 2, part), 0.0)
        assert assembler.held == content(assembler) <= MAX_KEPT
    assert assembler.add(piece(id, 1, 2), 0.0) == part + b"x"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 300), st.integers(0, 255), st.integers(0, 255), st.integers(0, 65000), st.integers(0, 3)
        ),
        max_size=80,
    )
)
def test_whatever_comes_it_is_bounded(found: list[tuple[int, int, int, int, int]]) -> None:
    assembler = Assembler()
    now = 0.0
    for (id, index, count, length, wait), _ in zip(itertools.cycle(found), range(400 if found else 0), strict=False):
        now += wait / 10
        try:
            whole = assembler.add(piece(id, index, count, bytes(length)), now)
        except ValueError:
            whole = None
        assert whole is None or 1 <= len(whole) <= MAX_MESSAGE
        assert assembler.held == content(assembler) <= MAX_KEPT
        assert len(assembler._messages) <= MAX_MESSAGES
