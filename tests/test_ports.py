"""The ports of one process are no other's."""

from __future__ import annotations

from benchmarks import ports
from benchmarks.ports import SHARE, free_port


def test_a_share_has_one_owner() -> None:
    others = [ports._own_share() for _ in range(20)]
    for lock, _ in others:
        lock.close()
    shares = [ports._own, *(share for _, share in others)]
    assert len({port for share in shares for port in share}) == 21 * (SHARE - 1)


def test_a_port_is_not_given_out_again_before_all_others() -> None:
    given = [free_port() for _ in range(SHARE // 2)]
    assert len(set(given)) == len(given)
    assert set(given) < set(ports._own)
