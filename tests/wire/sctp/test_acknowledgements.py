"""When an association acknowledges."""

from __future__ import annotations

import pytest

from rtunnel.wire.sctp.association import MAX_UNREPEATED, SACK_DELAY
from tests.wire.sctp.by_hand import BINARY, Attack

LONG = 10 * SACK_DELAY


def burst(peer: Attack, count: int) -> None:
    """Packets that come at once."""
    peer.deliver([peer.packet(peer.data(0, BINARY, b"x" * 1000)) for _ in range(count)])


def highest(peer: Attack) -> int:
    return (peer.tsn - 1) % 2**32


@pytest.mark.parametrize("count", [MAX_UNREPEATED + 1, 30])
def test_one_acknowledgement_of_many_packets_is_repeated_once(count: int) -> None:
    """If it were lost, a peer such as Pion would wait for its time-out of a second: its whole window hangs on it."""
    peer = Attack()
    burst(peer, count)
    assert [sack.cumulative for sack in peer.sacks()] == [highest(peer)]
    peer.wait(LONG)
    assert [sack.cumulative for sack in peer.sacks()] == [highest(peer)] * 2


def test_one_of_few_packets_is_not() -> None:
    peer = Attack()
    burst(peer, MAX_UNREPEATED)
    peer.wait(LONG)
    assert [sack.cumulative for sack in peer.sacks()] == [highest(peer)]


def test_none_is_repeated_while_more_comes() -> None:
    peer = Attack()
    for _ in range(20):
        burst(peer, 10)
        peer.wait(SACK_DELAY / 2)
    assert len(peer.sacks()) == 20
    assert peer.sacks()[-1].cumulative == highest(peer)


def test_what_is_repeated_waits_for_its_time_though_there_is_data_to_send() -> None:
    peer = Attack()
    burst(peer, 10)
    peer.victim.send(0, BINARY, b"y", True, None, peer.now)
    peer.hear()
    assert len(peer.sacks()) == 1


def test_one_packet_is_acknowledged_after_a_while_or_with_data() -> None:
    peer = Attack()
    burst(peer, 1)
    assert not peer.sacks()
    peer.victim.send(0, BINARY, b"y", True, None, peer.now)
    peer.hear()
    assert len(peer.sacks()) == 1
    burst(peer, 1)
    peer.wait(SACK_DELAY * 1.01)
    assert [sack.cumulative for sack in peer.sacks()][1:] == [highest(peer)]
    peer.wait(LONG)
    assert len(peer.sacks()) == 2
