"""The messages of a path, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.datagrams.messages import (
    DATAGRAM,
    FIRST,
    KNOWN,
    MAX_DATAGRAM,
    MAX_MESSAGE,
    decode_first,
    decode_number,
    encode_first,
    encode_number,
)

NUMBERS = st.sampled_from([0, 1, 2**32 - 1]) | st.integers(0, 2**32 - 1)


def test_the_bytes_of_messages() -> None:
    assert encode_number(KNOWN, 7) == bytes.fromhex("12 00000007")
    assert encode_number(DATAGRAM, 7, b"hello") == bytes.fromhex("10 00000007 68656c6c6f")
    first = bytes.fromhex("11 00000007 00000003 0e 3139322e302e322e313a35303030 68656c6c6f")
    assert encode_first(7, 3, "192.0.2.1:5000", b"hello") == first


@given(NUMBERS, NUMBERS, st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.binary(max_size=100))
def test_first(flow: int, tunnel: int, visitor: str, data: bytes) -> None:
    message = encode_first(flow, tunnel, visitor, data)
    assert message[0] == FIRST
    assert decode_number(message) == flow
    found_flow, found_tunnel, found_visitor, found_data = decode_first(message)
    assert (found_flow, found_tunnel, found_data) == (flow, tunnel, data)
    assert visitor.startswith(found_visitor.removesuffix("..."))


def test_the_longest() -> None:
    assert len(encode_first(1, 1, "v" * 300, bytes(MAX_DATAGRAM))) == MAX_MESSAGE


def test_a_visitor_who_would_spoil_the_log() -> None:
    assert decode_first(encode_first(1, 1, "a\nb\x1b\x85", b""))[2].isprintable()
    assert decode_first(bytes.fromhex("11 00000007 00000003 02 fffe"))[2].isprintable()


BYTES = st.binary(max_size=40)
#: With a length that can be true, which any byte hardly ever is.
FITTING = st.builds(lambda *parts: b"%b%c%b" % parts, st.binary(min_size=9, max_size=9), st.integers(0, 40), BYTES)


@given(BYTES | BYTES.map(lambda data: bytes((FIRST,)) + data) | FITTING)
def test_any_bytes(data: bytes) -> None:
    """They decode or not; then that says so, and nothing else."""
    if len(data) < 10 or len(data) < 10 + data[9]:
        with pytest.raises(ValueError, match="a malformed FIRST"):
            decode_first(data)
    else:
        assert decode_first(data)[3] == data[10 + data[9] :]
    if len(data) < 5:
        with pytest.raises(ValueError, match="message"):
            decode_number(data)
    else:
        assert decode_number(data) == int.from_bytes(data[1:5], "big")


@given(NUMBERS, st.binary(max_size=20))
def test_number(number: int, data: bytes) -> None:
    message = encode_number(DATAGRAM, number, data)
    assert decode_number(message) == number
    assert message[5:] == data
