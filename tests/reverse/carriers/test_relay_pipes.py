"""How a relay over a data connection chooses between pipes and its buffer, and what it does without a pipe."""

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

from rtunnel.relay import pipes
from rtunnel.relay.pipes import CANNOT_SPLICE, PIPES
from rtunnel.relay.polled_socket import SHORT_SPLICE, SHORT_TURNS
from tests.relay.turns import Far, Turns, checked_turns, open_descriptors, random_bytes
from tests.reverse.carriers.rig import PLAIN, SIDES, Pair, Rig, Visit, far_ends

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
BULK = 3_000_000
#: The size of the kernel's buffers where a relay is to be full, and more bytes than it keeps then.
SMALL, TOO_MUCH = 1 << 18, 12 << 20


@pytest.fixture(params=PLAIN)
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    """Sealed records are not spliced."""
    with checked_turns(request.param) as turns:
        yield turns


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
    async with Rig(turns, kind) as rig:
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
async def test_bulk_takes_short_turns_while_others_have_little_to_say(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    splice = os.splice

    def watched(source: int, destination: int, count: int, **flags: Any) -> int:
        if is_socket(source):
            asked.append(count)
        return splice(source, destination, count, **flags)

    monkeypatch.setattr(os, "splice", watched)
    data = random_bytes(2 * TOO_MUCH)
    with Pair(turns) as bulky, Pair(turns) as small:
        bulk, other = bulky.open(), small.open()
        bulk.left.send(data[:TOO_MUCH])
        await bulky.until(lambda: bulk.right.received == TOO_MUCH, *bulk.fars)
        assert max(asked) > SHORT_SPLICE
        await ask(small, other)
        assert turns.relays.short_turns == SHORT_TURNS
        asked.clear()
        bulk.left.send(data[TOO_MUCH:])
        await bulky.until(lambda: bulk.right.received == len(data), *bulk.fars)
        assert max(asked[:SHORT_TURNS]) <= SHORT_SPLICE
        assert turns.relays.short_turns < SHORT_TURNS
        assert bulk.right.got(data)


async def ask(pair: Pair, visit: Visit) -> None:
    """Send a small request."""
    before = visit.right.received
    visit.left.send(b"request")
    await pair.until(lambda: visit.right.received == before + 7, *visit.fars)


async def fill_pipes(rig: Rig) -> None:
    """Send until both ends have bytes in a pipe that nobody takes."""
    rig.right.reads = 0
    rig.left.send(bytes(TOO_MUCH))
    await rig.settle()
    while PIPES.in_use < 2:
        # As it happened, the last bytes came in a small piece, and wait in memory. Go on to the next ones.
        assert rig.right.received < TOO_MUCH
        rig.right.reads = 1 << 16
        rig.right.step()
        rig.right.reads = 0
        await rig.settle()


@pytest_twisted.ensureDeferred
async def test_pipe_is_held_only_while_there_are_bytes_in_it(turns: Turns) -> None:
    async with Rig(turns, buffers=SMALL) as rig:
        await fill_pipes(rig)
        assert rig.near_right._pipe is not None
        assert rig.server._pipe is not None
        rig.right.reads = 1 << 18
        await rig.until(lambda: rig.right.received == TOO_MUCH)
        assert PIPES.in_use == 0
        assert len(PIPES) >= 1


@pytest_twisted.ensureDeferred
async def test_pipe_with_bytes_in_it_is_closed_with_its_relay(turns: Turns) -> None:
    before = open_descriptors()
    async with Rig(turns, buffers=SMALL) as rig:
        before = open_descriptors()
        await fill_pipes(rig)
        kept = len(PIPES)
        rig.near_right.abort()
        rig.near_left.abort()
        assert rig.told == [("server", "lost")]
        assert PIPES.in_use == 0
        assert len(PIPES) == kept
        assert open_descriptors() == before + 2 * kept - 3


@pytest_twisted.ensureDeferred
async def test_touched_by_what_goes_through_a_pipe(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[bool] = []
    async with Rig(turns) as rig:
        near = rig.near_left

        def look(source: int, _destination: int) -> None:
            nonlocal near
            if is_socket(source):
                near = rig.near_left if source == rig.near_left.fileno() else rig.near_right
                near.touched = False
            else:
                touched.append(near.touched)

        watch_splice(monkeypatch, look)
        await say(rig, rig.left, rig.right, bytes(BULK))
    assert len(touched) > 1
    assert all(touched)


@KINDS
@pytest_twisted.ensureDeferred
async def test_system_without_splice(turns: Turns, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "HAVE_SPLICE", False)
    monkeypatch.delattr(os, "splice")
    async with Rig(turns, kind, buffers=16384) as rig:
        await both_ways(rig)


@pytest.mark.parametrize("number", CANNOT_SPLICE)
@pytest.mark.parametrize("into_the_pipe", [True, False])
@pytest_twisted.ensureDeferred
async def test_sockets_that_splice_does_not_serve(
    turns: Turns, into_the_pipe: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once with each of the four, and what is in the pipe by then is not lost."""
    calls: list[int] = []

    def fails(source: int, destination: int) -> int | None:
        if is_socket(source) != into_the_pipe:
            return None
        calls.append(source if into_the_pipe else destination)
        return number

    watch_splice(monkeypatch, fails)
    async with Rig(turns, buffers=65536) as rig:
        await both_ways(rig)
    assert 2 <= len(calls) == len({*calls}) <= 4


@pytest.mark.parametrize("into_the_pipe", [True, False])
@pytest_twisted.ensureDeferred
async def test_splice_that_finds_the_connection_broken(
    turns: Turns, into_the_pipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch_splice(
        monkeypatch, lambda source, _destination: errno.ETIMEDOUT if is_socket(source) == into_the_pipe else None
    )
    async with Rig(turns) as rig:
        rig.left.send(bytes(BULK))
        if not into_the_pipe:
            await rig.until(lambda: rig.server._is_broken)
            # What the system says of a broken connection once the error is taken. The relay reads on until then.
            rig.client.cut()
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
    async with Rig(turns) as rig:
        await both_ways(rig)
    assert moved


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
    async with Rig(turns, buffers=65536) as rig:
        with no_descriptors():
            await both_ways(rig)
        assert not moved


@pytest_twisted.ensureDeferred
async def test_no_more_pipes_than_are_allowed(turns: Turns, monkeypatch: pytest.MonkeyPatch, moved: list[int]) -> None:
    monkeypatch.setattr(pipes, "MAX_IN_USE", 1)
    taken = PIPES.take()
    assert taken is not None
    async with Rig(turns, buffers=65536) as rig:
        await both_ways(rig)
    assert not moved
    PIPES.give_back(taken)
