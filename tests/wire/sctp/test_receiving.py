"""Acknowledgements, the receive window, and what ends or begins anew: one case at a time."""

from __future__ import annotations

import pytest

from rtunnel.wire.sctp.chunks import BEGIN, END, IMMEDIATE, UNORDERED, ProtocolError
from rtunnel.wire.sctp.reassembly import WHOLE
from rtunnel.wire.sctp.receiving import MAX_DUPLICATES, WINDOW_SLACK, Inbound
from tests.wire.sctp.inbound_parts import BINARY, WINDOW


class Peer:
    """Sends chunks of stream 4 with TSNs counted from 1."""

    def __init__(self, window: int = WINDOW, first_tsn: int = 2**32 - 2, interleaved: bool = False) -> None:
        self.inbound = Inbound(first_tsn, window, 10, interleaved)
        self._before = first_tsn - 1

    def data(
        self, tsn: int, payload: bytes = b"x", flags: int = WHOLE | UNORDERED, number: int = 0, stream: int = 4
    ) -> None:
        self.inbound.data((self._before + tsn) % 2**32, flags, stream, number, BINARY, payload)

    def forward(self, tsn: int, *skipped: tuple[int, int]) -> None:
        self.inbound.forward((self._before + tsn) % 2**32, skipped)

    def told(self) -> str:
        """Which acknowledgement is due."""
        return "now" if self.inbound.sack_now else "due" if self.inbound.sack_due else "none"

    def sack(self, most_gaps: int = 100) -> tuple[int, list[tuple[int, int]], list[int]]:
        """The cumulative TSN, the gaps, and the duplicates of a SACK."""
        cumulative, _, gaps, duplicates = self.inbound.take_sack(most_gaps)
        assert self.told() == "none"
        return cumulative - self._before, gaps, [tsn - self._before for tsn in duplicates]

    @property
    def window(self) -> int:
        return self.inbound.take_sack(0)[1]

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload in self.inbound.messages]


def test_what_is_in_order_may_be_acknowledged_late() -> None:
    peer = Peer()
    assert peer.told() == "none"
    for tsn in range(1, 6):
        peer.data(tsn)
        assert peer.told() == "due"
    assert peer.sack() == (5, [], [])
    peer.data(6, flags=WHOLE | UNORDERED | IMMEDIATE)
    assert peer.told() == "now"


def test_gaps_are_acknowledged_at_once_until_they_are_filled() -> None:
    peer = Peer()
    for tsn, gaps in ((3, [(3, 3)]), (4, [(3, 4)]), (8, [(3, 4), (8, 8)]), (6, [(3, 4), (6, 6), (8, 8)])):
        peer.data(tsn)
        assert peer.told() == "now"
        assert peer.sack() == (0, gaps, [])
    peer.data(7)
    assert peer.sack() == (0, [(3, 4), (6, 8)], [])
    peer.data(5)
    assert peer.sack() == (0, [(3, 8)], [])
    peer.data(1)
    assert peer.told() == "now"
    assert peer.sack() == (1, [(2, 7)], [])
    peer.data(2)
    assert peer.told() == "now"
    assert peer.sack() == (8, [], [])
    peer.data(9)
    assert peer.told() == "due"


def test_as_many_gaps_as_fit() -> None:
    peer = Peer()
    for tsn in range(2, 40, 2):
        peer.data(tsn)
    assert peer.sack(3) == (0, [(2, 2), (4, 4), (6, 6)], [])


def test_duplicates_are_told_once_and_not_without_end() -> None:
    peer = Peer()
    for tsn in (1, 3, 4):
        peer.data(tsn)
    peer.sack()
    for tsn in (1, 4, 3, 1, 0):
        peer.data(tsn)
        assert peer.told() == "now"
    assert peer.sack() == (1, [(2, 3)], [1, 4, 3, 1, 0])
    assert peer.sack() == (1, [(2, 3)], [])
    for _ in range(1000):
        peer.data(1)
    assert len(peer.sack()[2]) == MAX_DUPLICATES
    assert len(peer.payloads) == 3


@pytest.mark.parametrize(
    ("order", "missed"),
    [([1, 2, 3], 0), ([1, 3, 2], 1), ([3, 1, 2], 2), ([2, 4, 6, 1, 3, 5], 3), ([1, 9, 5, 6], 7), ([1, 2, 2, 1, 3], 0)],
)
@pytest.mark.parametrize("first_tsn", [5, 2**32 - 3])
def test_chunks_that_are_overtaken_are_counted_once(order: list[int], missed: int, first_tsn: int) -> None:
    peer = Peer(first_tsn=first_tsn)
    for tsn in order:
        peer.data(tsn)
    assert peer.inbound.chunks_missed == missed
    assert peer.inbound.chunks_received == len(set(order))


# Messages


def test_a_message_in_order_does_not_overtake() -> None:
    peer = Peer()
    peer.data(2, b"two", WHOLE, 1)
    peer.data(4, b"four", WHOLE | UNORDERED)
    peer.data(3, b"other", WHOLE, 0, stream=5)
    assert peer.payloads == [b"four", b"other"]
    peer.data(1, b"one", WHOLE, 0)
    assert peer.payloads == [b"four", b"other", b"one", b"two"]


def test_a_message_around_others() -> None:
    """Only an end is without an end."""
    peer = Peer()
    peer.data(1, b"a", BEGIN)
    peer.data(3, b"c", END)
    peer.data(2, b"b", 0)
    assert peer.inbound.messages == [(4, BINARY, b"abc")]


@pytest.mark.parametrize("flags", [0, BEGIN, END, WHOLE])
def test_a_message_without_an_end_goes_with_the_next_chunk(flags: int) -> None:
    peer = Peer()
    peer.data(1, bytes(1000), BEGIN)
    peer.data(2, bytes(1000), 0)
    assert peer.window == WINDOW - 2000
    peer.data(3, b"x", flags, stream=5)
    assert peer.window == WINDOW - (flags == BEGIN)
    assert bool(peer.payloads) == (flags == WHOLE)


@pytest.mark.parametrize("flags", [0, END])
def test_a_message_without_a_beginning_is_not_kept(flags: int) -> None:
    peer = Peer()
    peer.data(1, bytes(1000), flags)
    assert peer.window == WINDOW
    peer.data(3, bytes(1000), flags)
    assert peer.window == WINDOW - 1000
    peer.forward(2)
    assert peer.window == WINDOW


def test_the_number_of_a_message_without_order_means_nothing() -> None:
    peer = Peer()
    peer.data(1, b"a", BEGIN | UNORDERED, 7)
    peer.data(3, b"c", END | UNORDERED, 9)
    peer.data(2, b"b", UNORDERED, 8)
    peer.data(4, b"d", WHOLE, 0)
    assert peer.payloads == [b"abc", b"d"]


def test_the_caller_clears_the_list_of_messages() -> None:
    peer = Peer()
    peer.data(1, b"a")
    peer.inbound.messages.clear()
    peer.data(2, b"b")
    assert peer.payloads == [b"b"]


# The window


def test_what_waits_shrinks_the_window() -> None:
    peer = Peer()
    peer.data(2, bytes(1000), WHOLE, 1)
    peer.data(4, bytes(500), BEGIN | UNORDERED)
    assert peer.window == WINDOW - 1500
    assert peer.inbound.kept >= 1500
    peer.inbound.hold(10_000)
    assert peer.window == WINDOW - 11_500
    peer.data(1, bytes(700), WHOLE, 0)
    assert peer.window == WINDOW - 10_500
    peer.inbound.release(10_000)
    peer.forward(5)
    assert peer.window == WINDOW
    assert peer.inbound.kept == 0


def test_a_window_that_is_closed() -> None:
    """Chunks behind a gap are dropped. The next one is taken, up to the slack: the peer probes with it."""
    peer = Peer()
    peer.inbound.hold(WINDOW - 1000)
    peer.data(2, bytes(1001))
    assert peer.told() == "now"
    assert peer.sack() == (0, [], [])
    peer.data(2, bytes(1000), WHOLE, 1)
    assert peer.sack() == (0, [(2, 2)], [])
    assert peer.window == 0
    peer.data(1, bytes(1200), BEGIN, stream=5)
    assert peer.sack() == (2, [], [])
    assert peer.window == 0
    peer.inbound.hold(WINDOW_SLACK)
    peer.data(3, bytes(1200), stream=5)
    assert peer.sack() == (2, [], [])
    peer.inbound.release(WINDOW)
    peer.data(3, bytes(1200), END, stream=5)
    assert peer.sack() == (3, [], [])


def test_a_window_that_opens_is_told_at_once() -> None:
    peer = Peer()
    peer.inbound.hold(WINDOW - 1000)
    peer.data(1)
    assert peer.told() == "due"
    peer.sack()
    # While it is small, each packet is acknowledged at once.
    peer.data(2)
    assert peer.told() == "now"
    peer.sack()
    peer.inbound.release(WINDOW // 3)
    assert peer.told() == "none"
    peer.inbound.release(WINDOW // 3)
    assert peer.told() == "now"
    assert peer.window == WINDOW // 3 * 2 + 1000
    peer.inbound.release(1000)
    assert peer.told() == "none"


def test_a_large_message_fits_into_a_window_that_others_fill() -> None:
    peer = Peer()
    count = WINDOW_SLACK // 1024
    for number in range(1023):
        peer.data(count + 1 + number, bytes(1024), WHOLE, number + 1)
    for number in range(count):
        flags = (BEGIN if not number else 0) | (END if number == count - 1 else 0)
        peer.data(1 + number, bytes(1024), flags, 0)
    assert list(map(len, peer.payloads)) == [WINDOW_SLACK] + [1024] * 1023


# FORWARD-TSN


def test_a_message_that_is_given_up_is_passed() -> None:
    peer = Peer()
    peer.data(1, b"one", WHOLE, 0)
    peer.data(3, b"thr", BEGIN, 2)
    peer.data(5, b"five", WHOLE, 3)
    peer.data(7, b"seven", WHOLE, 5)
    peer.sack()
    peer.forward(4, (4, 2))
    assert peer.told() == "now"
    assert peer.sack() == (5, [(2, 2)], [])
    assert peer.payloads == [b"one", b"five"]
    peer.forward(6, (4, 4))
    assert peer.told() == "due"
    assert peer.sack() == (7, [], [])
    assert peer.payloads == [b"one", b"five", b"seven"]
    assert peer.inbound.kept == 0


def test_an_old_forward_tsn_is_acknowledged_at_once() -> None:
    peer = Peer()
    for tsn in range(1, 4):
        peer.data(tsn)
    peer.sack()
    for tsn in (3, 1, 0, -(2**31) + 3):
        peer.forward(tsn, (4, 100))
        assert peer.told() == "now"
        assert peer.sack() == (3, [], [])
    peer.data(4, b"zero", WHOLE, 0)
    assert peer.payloads[-1] == b"zero"


def test_a_message_that_comes_after_it_was_given_up_is_late() -> None:
    peer = Peer()
    peer.forward(1, (4, 5))
    peer.data(2, b"late", WHOLE, 5)
    peer.data(3, b"next", WHOLE, 6)
    assert peer.payloads == [b"next"]
    assert peer.inbound.kept == 0


# Reset


@pytest.mark.parametrize("streams", [[4], [7, 4, 4, 9], None])
def test_a_stream_that_is_reset_begins_anew(streams: list[int] | None) -> None:
    peer = Peer()
    peer.data(1, b"zero", WHOLE, 0)
    peer.data(2, bytes(1000), WHOLE, 2)
    peer.inbound.reset(streams)
    assert peer.window == WINDOW
    assert peer.inbound.kept == 0
    peer.data(3, b"zero again", WHOLE, 0)
    assert peer.payloads == [b"zero", b"zero again"]


def test_a_stream_that_is_reset_counts_no_more() -> None:
    peer = Peer()
    for stream in range(10):
        peer.data(1 + stream, stream=stream)
    peer.inbound.reset([3, 5])
    peer.data(11, stream=100)
    peer.data(12, stream=3)
    with pytest.raises(ProtocolError, match="more streams"):
        peer.data(13, stream=101)
