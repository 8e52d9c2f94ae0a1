"""How the direct relay chooses between pipes and its buffer, and what it does without a pipe."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import stat
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted

from rtunnel.relay import pipes, side as direct
from rtunnel.relay.pipes import PIPES, Pipe, Pipes
from tests.relay.direct_rig import Far, Rig, Turns, close_idle, far_ends, open_descriptors, random_bytes

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
SIDES = pytest.mark.parametrize("side", ["left", "right"])
BULK = 3_000_000


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many bytes each successful ``os.splice`` moved."""
    return watch_splice(monkeypatch, lambda _source, _destination: None)


def watch_splice(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, int], int | None]) -> list[int]:
    """Record what ``os.splice`` moves. *fails* returns the errno with which a call fails, by source and destination."""
    moved: list[int] = []
    splice = os.splice

    def watched(source: int, destination: int, count: int, **flags: Any) -> int:
        number = fails(source, destination)
        if number is not None:
            raise OSError(number, os.strerror(number))
        moved.append(splice(source, destination, count, **flags))
        return moved[-1]

    monkeypatch.setattr(os, "splice", watched)
    return moved


def is_socket(number: int) -> bool:
    return stat.S_ISSOCK(os.fstat(number).st_mode)


async def both_ways(rig: Rig, size: int = BULK) -> None:
    """Send bytes both ways at once, and check that they arrive."""
    there, back = random_bytes(size, 1), random_bytes(size, 2)
    rig.left.send(there, end=True)
    rig.right.send(back, end=True)
    await rig.until_over()
    assert rig.right.got(there)
    assert rig.left.got(back)


async def say(rig: Rig, far: Far, other: Far, data: bytes) -> None:
    """Send *data*, and wait until it has arrived."""
    expected = other.received + len(data)
    far.send(data)
    await rig.until(lambda: other.received == expected)


@KINDS
@SIDES
@pytest_twisted.ensureDeferred
async def test_bulk_goes_through_a_pipe_and_small_does_not(
    turns: Turns, kind: str, side: str, moved: list[int]
) -> None:
    with Rig(turns, kind) as rig:
        far, other = far_ends(rig, side)
        for _ in range(50):
            await say(rig, far, other, b"x" * 1000)
        assert not moved
        assert len(PIPES) == 0
        for _ in range(3):
            before = len(moved)
            await say(rig, far, other, bytes(BULK))
            assert len(moved) > before
            # A small read shows that the bulk transfer is over.
            await say(rig, far, other, b"y")
            before = len(moved)
            await say(rig, far, other, b"z")
            assert len(moved) == before


@pytest_twisted.ensureDeferred
async def test_pipe_is_held_only_while_there_are_bytes_in_it(turns: Turns) -> None:
    with Rig(turns) as rig:
        rig.right.reads = 0
        rig.left.send(bytes(24 << 20))
        await rig.settle()
        assert rig.relay._right.pipe is not None
        assert PIPES.in_use == 1
        rig.right.reads = 1 << 18
        await rig.until(lambda: rig.right.received == 24 << 20)
        assert PIPES.in_use == 0
        assert len(PIPES) >= 1


@pytest_twisted.ensureDeferred
async def test_pipe_with_bytes_in_it_is_closed_with_its_relay(turns: Turns) -> None:
    before = open_descriptors()
    with Rig(turns) as rig:
        rig.right.reads = 0
        rig.left.send(bytes(24 << 20))
        await rig.settle()
        assert rig.relay._right.pipe is not None
        kept = len(PIPES)
        rig.relay.abort()
        assert PIPES.in_use == 0
        assert len(PIPES) == kept
    assert open_descriptors() == before + 2 * kept


@pytest_twisted.ensureDeferred
async def test_touched_by_what_goes_through_a_pipe(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[bool] = []
    with Rig(turns) as rig:

        def look(source: int, _destination: int) -> None:
            if is_socket(source):
                rig.relay.touched = False
            else:
                touched.append(rig.relay.touched)

        watch_splice(monkeypatch, look)
        await say(rig, rig.left, rig.right, bytes(BULK))
    assert touched
    assert all(touched)


@KINDS
@pytest_twisted.ensureDeferred
async def test_system_without_splice(turns: Turns, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "HAVE_SPLICE", False)
    monkeypatch.delattr(os, "splice")
    with Rig(turns, kind, buffers=16384) as rig:
        await both_ways(rig)


@pytest.mark.parametrize("number", direct.CANNOT_SPLICE)
@pytest.mark.parametrize("into_the_pipe", [True, False])
@pytest_twisted.ensureDeferred
async def test_sockets_that_splice_does_not_serve(
    turns: Turns, into_the_pipe: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once in each direction, and what is in the pipe by then is not lost."""
    calls: list[int] = []

    def fails(source: int, _destination: int) -> int | None:
        if is_socket(source) != into_the_pipe:
            return None
        calls.append(source)
        return number

    watch_splice(monkeypatch, fails)
    with Rig(turns, buffers=65536) as rig:
        await both_ways(rig)
    assert len(calls) == 2


@pytest.mark.parametrize("into_the_pipe", [True, False])
@pytest_twisted.ensureDeferred
async def test_splice_that_finds_the_connection_broken(
    turns: Turns, into_the_pipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch_splice(
        monkeypatch, lambda source, _destination: errno.ETIMEDOUT if is_socket(source) == into_the_pipe else None
    )
    with Rig(turns) as rig:
        rig.left.send(bytes(BULK))
        if not into_the_pipe:
            await rig.until(lambda: rig.relay._right.broken)
            # What the system says of a broken connection once the error is taken. The relay reads on until then.
            rig.right.send(b"", end=True)
        await rig.until_over()
        assert isinstance(rig.left.error, ConnectionResetError)
        assert isinstance(rig.right.error, ConnectionResetError)


@pytest_twisted.ensureDeferred
async def test_pipe_of_the_size_that_the_system_likes(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with many pipes may not make them large."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    moved = watch_splice(monkeypatch, lambda _source, _destination: None)
    with Rig(turns) as rig:
        await both_ways(rig)
    assert moved


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


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let the process open no descriptor while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest_twisted.ensureDeferred
async def test_no_descriptor_for_a_pipe(turns: Turns, moved: list[int]) -> None:
    with Rig(turns, buffers=65536) as rig:
        with no_descriptors():
            await both_ways(rig)
        assert not moved


@pytest_twisted.ensureDeferred
async def test_no_more_pipes_than_are_allowed(turns: Turns, monkeypatch: pytest.MonkeyPatch, moved: list[int]) -> None:
    monkeypatch.setattr(pipes, "MAX_IN_USE", 1)
    with Rig(turns) as stalled, Rig(turns, buffers=65536) as rig:
        stalled.right.reads = 0
        stalled.left.send(bytes(24 << 20))
        await stalled.settle()
        assert PIPES.in_use == 1
        moved.clear()
        await both_ways(rig)
        assert not moved


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
