"""Pipes for ``splice``, and how many there are."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from rtunnel.relay import pipes
from rtunnel.relay.pipes import Pipe, Pipes
from tests.relay.turns import close_idle, open_descriptors


def test_size_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def size(limit: int) -> int:
        def limited(number: int, command: int, argument: int = 0) -> int:
            if argument > limit:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            return int(real(number, command, argument))

        monkeypatch.setattr(fcntl, "fcntl", limited)
        pipe = Pipe()
        try:
            return int(real(pipe.read_end, fcntl.F_GETPIPE_SZ))
        finally:
            pipe.close()

    assert size(1 << 18) == 1 << 18
    assert size(0) < 1 << 18


@pytest.mark.usefixtures("steady_descriptors")
def test_few_pipes_are_kept() -> None:
    before = open_descriptors()
    pool = Pipes()
    taken = [pool.take() for _ in range(pipes.MAX_IN_USE)]
    assert pool.take() is None
    assert pool.in_use == pipes.MAX_IN_USE
    for pipe in taken:
        assert pipe is not None
        pool.give_back(pipe)
    assert len(pool) == pipes.MAX_IDLE
    assert pool.in_use == 0
    again = pool.take()
    assert again in taken
    assert again is not None
    os.write(again.write_end, b"x")
    again.count = 1
    pool.give_back(again)
    assert len(pool) == pipes.MAX_IDLE - 1
    close_idle(pool)
    assert open_descriptors() == before


def test_pipes_take_a_small_part_of_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "descriptor_limit", lambda: 128)
    some = Pipes()
    taken = [pipe for pipe in (some.take() for _ in range(10)) if pipe is not None]
    assert len(taken) == 4
    for pipe in taken:
        some.give_back(pipe)
        pipe.close()
