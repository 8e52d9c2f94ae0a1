"""Messages whose fragments are interleaved (RFC 8260)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rtunnel.wire.sctp.chunks import BEGIN, END, UNORDERED, ProtocolError
from rtunnel.wire.sctp.reassembly import WHOLE
from rtunnel.wire.sctp.receiving import Inbound
from tests.wire.sctp.inbound_parts import BINARY, WINDOW


class Peer:
    """Sends I-DATA chunks of stream 4."""

    def __init__(self) -> None:
        self.inbound = Inbound(1, WINDOW, 10, True)
        self.tsn = 1

    def i_data(
        self, mid: int, flags: int, kind_or_fsn: int = BINARY, payload: bytes = b"x", tsn: int | None = None
    ) -> None:
        self.inbound.i_data(self.tsn if tsn is None else tsn, flags, 4, mid, kind_or_fsn, payload)
        if tsn is None:
            self.tsn += 1

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload in self.inbound.messages]


def test_messages_without_order_between_the_fragments_of_another() -> None:
    peer = Peer()
    peer.i_data(0, BEGIN, payload=b"a")
    peer.i_data(0, BEGIN | UNORDERED, payload=b"1")
    peer.i_data(0, 0, 1, b"b")
    peer.i_data(7, WHOLE | UNORDERED, payload=b"whole")
    peer.i_data(0, END | UNORDERED, 1, b"2")
    peer.i_data(0, END, 2, b"c")
    assert peer.payloads == [b"whole", b"12", b"abc"]
    assert {kind for _, kind, _ in peer.inbound.messages} == {BINARY}
    assert peer.inbound.kept == 0


def test_numbers_of_32_bits() -> None:
    peer = Peer()
    for mid in (2**31 - 1, 2**32 - 2):
        peer.inbound.i_forward(peer.tsn, [(4, False, mid)])
        peer.tsn += 1
    for mid, payload in ((0, b"0"), (2**32 - 1, b"-1"), (1, b"1")):
        peer.i_data(mid, WHOLE, payload=payload)
    assert peer.payloads == [b"-1", b"0", b"1"]


def test_numbers_of_32_bits_without_order() -> None:
    peer = Peer()
    for mid in (2**31 - 1, 2**32 - 2):
        peer.inbound.i_forward(peer.tsn, [(4, True, mid)])
        peer.tsn += 1
    for mid in (0, 2**32 - 1, 1):
        peer.i_data(mid, BEGIN | UNORDERED, payload=b"a")
    for mid in (2**32 - 1, 1, 0):
        peer.i_data(mid, END | UNORDERED, 1, payload=b"%d" % mid)
    assert peer.payloads == [b"a4294967295", b"a1", b"a0"]


def test_numbers_without_order_follow_what_comes() -> None:
    peer = Peer()
    for mid in (2**31 - 1, 2**32 - 2):
        peer.i_data(mid, BEGIN | UNORDERED)
    peer.inbound.i_forward(peer.tsn, [(4, True, 2**32 - 1)])
    assert peer.inbound.kept == 0


def test_what_is_given_up_is_dropped_and_what_comes_late_too() -> None:
    peer = Peer()
    peer.i_data(0, BEGIN)
    peer.i_data(3, BEGIN | UNORDERED)
    peer.i_data(2, WHOLE, payload=b"two")
    assert peer.inbound.kept
    peer.inbound.i_forward(4, [(4, False, 1), (4, True, 3)])
    assert peer.payloads == [b"two"]
    assert peer.inbound.kept == 0
    peer.tsn = 5
    peer.i_data(0, END, 2)
    peer.i_data(3, END | UNORDERED, 2)
    peer.i_data(2, 0, 2)
    assert peer.inbound.kept == 0
    peer.i_data(3, WHOLE, payload=b"three")
    peer.i_data(4, BEGIN | UNORDERED, payload=b"fo")
    peer.i_data(4, END | UNORDERED, 1, payload=b"ur")
    assert peer.payloads == [b"two", b"three", b"four"]


def test_a_stream_that_is_reset_begins_anew() -> None:
    peer = Peer()
    peer.i_data(0, WHOLE, payload=b"zero")
    peer.i_data(1, BEGIN)
    peer.i_data(2, WHOLE)
    peer.i_data(1, BEGIN | UNORDERED)
    peer.inbound.reset([4])
    assert peer.inbound.kept == 0
    assert peer.inbound.take_sack(0)[1] == WINDOW
    peer.i_data(0, WHOLE, payload=b"zero again")
    assert peer.payloads == [b"zero", b"zero again"]


@pytest.mark.parametrize(
    ("chunks", "breach"),
    [
        ([(0, BEGIN, BINARY), (0, BEGIN, BINARY)], "same number"),
        ([(0, BEGIN, BINARY), (0, 0, 1), (0, 0, 1)], "same number"),
        ([(0, END, 3), (0, 0, 2), (0, 0, 3)], "same number"),
        ([(0, 0, 0)], "number 0"),
        ([(0, 0, 4), (0, END, 1), (0, BEGIN, BINARY)], "behind the last"),
        ([(1, WHOLE, BINARY), (1, WHOLE, BINARY)], "two messages"),
        ([(1, WHOLE, BINARY), (1, BEGIN, BINARY), (1, END, 1)], "two messages"),
    ],
)
def test_breaches(chunks: list[tuple[int, int, int]], breach: str) -> None:
    peer = Peer()
    for chunk in chunks[:-1]:
        peer.i_data(*chunk)
    with pytest.raises(ProtocolError, match=breach):
        peer.i_data(*chunks[-1])


@pytest.mark.parametrize("interleaved", [False, True])
def test_chunks_that_were_not_agreed_are_a_breach(interleaved: bool) -> None:
    inbound = Inbound(1, WINDOW, 10, interleaved)
    chunk = (1, WHOLE, 4, 0, BINARY, b"x")
    with pytest.raises(ProtocolError, match="interleaved"):
        (inbound.data if interleaved else inbound.i_data)(*chunk)
    forward: Callable[[int, list[Any]], None] = inbound.forward if interleaved else inbound.i_forward
    with pytest.raises(ProtocolError, match="interleaved"):
        forward(1, [])
