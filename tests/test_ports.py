"""The ports of one process are no other's."""

from __future__ import annotations

import multiprocessing

import pytest

from benchmarks import ports
from benchmarks.ports import FIRST, SHARE, free_port
from tests.patience import PATIENCE


def share(port: int) -> int:
    return (port - FIRST) // SHARE


def test_a_share_has_one_owner() -> None:
    others = [ports._own_share() for _ in range(20)]
    for lock, _ in others:
        lock.close()
    owners = [share(free_port()), *(share(own[0]) for _, own in others)]
    assert len(set(owners)) == 21
    assert all({share(port) for port in own} == {share(own[0])} for _, own in others)


def test_a_port_is_not_given_out_again_before_all_others() -> None:
    given = [free_port() for _ in range(SHARE // 2)]
    assert len(set(given)) == len(given)
    assert {share(port) for port in given} == {share(free_port())}


@pytest.mark.process
def test_a_fork_has_a_share_of_its_own() -> None:
    ours = free_port()
    forks = multiprocessing.get_context("fork")
    here, there = forks.Pipe()
    fork = forks.Process(target=lambda: there.send(free_port()))
    fork.start()
    assert here.poll(PATIENCE)
    assert share(here.recv()) != share(ours)
    fork.join()
