"""Data connections between real sockets: what waits, what breaks, and one stream after the other."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest
import pytest_twisted

from rtunnel.relay.last_bytes import unacknowledged
from rtunnel.relay.local_socket import LocalSocket
from rtunnel.relay.polled_socket import SPLICE_SIZE
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.wire.data.connection import Opened
from rtunnel.wire.data.records import DATA, OPEN, READ_SIZE, RESET, encode_opening, encode_reason
from rtunnel.wire.halves import BROKEN_MAX_STALL
from tests.relay.turns import Turns, random_bytes
from tests.reverse.carriers.rig import SIDES, Pair, Recording, Rig, answer_each_other, far_ends

#: The size of the kernel's buffers where a relay is to be full, and more bytes than it keeps then.
SMALL, TOO_MUCH = 65536, 6 << 20


class Moody:
    """A socket that takes as many bytes as the test says, one number for each call; None: it says that it is broken.

    :ivar takes: those numbers; then it takes what the real one takes.
    """

    def __init__(self, end: RecordSocket | LocalSocket, *takes: int | None) -> None:
        self._real: Any = end.socket
        self.takes = list(takes)
        end.socket = self  # type: ignore[assignment]

    def send(self, data: Any, *flags: int) -> int:
        if not self.takes:
            return int(self._real.send(data, *flags))
        count = self.takes.pop(0)
        if count is None:
            self.takes.append(None)
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        if not count:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return int(self._real.send(data[:count], *flags))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


# What waits


@pytest.mark.parametrize("takes", [(0,), (3,), (3, 2), (0, 0, 8)])
@SIDES
@pytest_twisted.ensureDeferred
async def test_bytes_go_behind_a_sign_of_life_that_waits(turns: Turns, side: str, takes: tuple[int, ...]) -> None:
    async with Rig(turns) as rig:
        near = rig.server if side == "left" else rig.client
        sending, other = far_ends(rig, side)
        Moody(near, *takes)
        near.say_alive()
        assert near.waiting
        for size in (5, 3_000_000):
            sending.send(random_bytes(size, size))
        sending.end_behind = True
        other.send(b"", end=True)
        await rig.until_over()
        assert other.got(random_bytes(5, 5) + random_bytes(3_000_000, 3_000_000))


@pytest.mark.parametrize("takes", [(0,), (9,), (9, 2)])
@pytest_twisted.ensureDeferred
async def test_bytes_go_behind_an_opening_that_waits(turns: Turns, takes: tuple[int, ...]) -> None:
    with Pair(turns) as pair:
        Moody(pair.server, *takes)
        visit = pair.open()
        assert pair.server.waiting
        await answer_each_other(pair, visit.left, visit.right, 500_000)


@pytest.mark.parametrize("size", [5, 300_000])
@pytest_twisted.ensureDeferred
async def test_end_goes_behind_what_waits(turns: Turns, size: int) -> None:
    async with Rig(turns) as rig:
        Moody(rig.server, 0, 5, 0)
        Moody(rig.client, 3, 2, 0)
        await answer_each_other(rig, rig.left, rig.right, size)


@pytest_twisted.ensureDeferred
async def test_socket_without_buffers_is_full(turns: Turns) -> None:
    """Some systems say so by ENOBUFS."""

    class Short(Moody):
        def send(self, data: Any, *flags: int) -> int:
            try:
                return super().send(data, *flags)
            except BlockingIOError:
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)) from None

    async with Rig(turns) as rig:
        for end in (rig.server, rig.client, *rig.nears):
            Short(end, 0, 1, 0)
        await answer_each_other(rig, rig.left, rig.right, 300_000)


# What breaks


@SIDES
@pytest_twisted.ensureDeferred
async def test_connection_that_cannot_be_written_to_is_read_at_the_local_pace(turns: Turns, side: str) -> None:
    """A pipe with bytes for the local socket is not replaced by the next one, and no bytes pile up in memory."""
    data = random_bytes(TOO_MUCH)
    async with Rig(turns, buffers=4 * SMALL) as rig:
        far, other = far_ends(rig, side)
        end, near = (rig.server, rig.near_left) if side == "left" else (rig.client, rig.near_right)
        far.reads = 0
        other.send(data)
        await rig.settle()
        assert near.waiting
        Moody(end, None)
        for _ in range(5):
            far.send(b"x" * 1000)
            await rig.settle()
        assert not end.waiting
        assert near.waiting <= max(SPLICE_SIZE, READ_SIZE)
        far.reads = 1 << 18
        other.send(b"", end=True)
        await rig.until(lambda: other.ended or far.received == len(data))
        assert far.got(data)


@SIDES
@pytest_twisted.ensureDeferred
async def test_socket_that_breaks_with_a_pipe_in_its_hands(turns: Turns, side: str) -> None:
    """It had ended its direction, so nothing is left to be done with it. The connection is as good as before."""
    async with Rig(turns) as rig:
        far, other = far_ends(rig, side)
        far.send(b"", end=True)
        await rig.until(lambda: other.ended)
        other.send(bytes(30 << 20))
        await rig.until(lambda: far.received > 4 << 20)
        far.reset()
        await rig.until(lambda: len(rig.ends) == 2)
        await rig.until(lambda: len(rig.told) == 2)
        assert sorted(rig.told) == [("client", "freed"), ("server", "freed")]


@pytest_twisted.ensureDeferred
async def test_broken_connection_is_not_offered_again(turns: Turns) -> None:
    async with Rig(turns) as rig:
        Moody(rig.server, None)
        rig.near_left.abort()
        rig.near_right.abort()
        await rig.turns.until(lambda: rig.server.state.is_free)
        assert rig.told == []
        rig.client.cut()
        await rig.turns.until(lambda: rig.told)
        assert rig.told == [("server", "lost")]


@pytest_twisted.ensureDeferred
async def test_connection_that_gives_way_is_not_offered_meanwhile(turns: Turns) -> None:
    """Behind a RESET, the server could give it to the next visitor before it sees that it is closed."""
    async with Rig(turns) as rig:
        recording = Recording(rig.client)
        rig.near_right.cut()
        assert recording.sent == []
        await rig.until(lambda: all(far.is_over for far in rig.fars))
        assert sorted(rig.told) == [("client", "lost"), ("server", "lost")]


@pytest_twisted.ensureDeferred
async def test_server_that_needs_descriptors_keeps_its_connections(turns: Turns) -> None:
    async with Rig(turns) as rig:
        rig.near_left.cut()
        await rig.until(lambda: all(far.is_over for far in rig.fars))
        await rig.until(lambda: ("server", "freed") in rig.told)
        assert ("server", "lost") not in rig.told


@pytest_twisted.ensureDeferred
async def test_loss_of_the_connection_resets_both_behind_what_came(turns: Turns) -> None:
    for end in ("server", "client"):
        async with Rig(turns) as rig:
            for far, other in (rig.fars, rig.fars[::-1]):
                far.send(b"before")
                await rig.until(lambda: other.received)  # noqa: B023
            getattr(rig, end).cut()
            await rig.until(lambda: all(far.is_over for far in rig.fars))
            assert all(isinstance(far.error, ConnectionResetError) for far in rig.fars)
            assert rig.told == [("client" if end == "server" else "server", "lost")]


@pytest_twisted.ensureDeferred
async def test_answer_to_a_reset_that_waits_does_not_cost_the_connection(turns: Turns) -> None:
    """Whoever dials a service resets the stream when told that its visitor is gone."""
    with Pair(turns) as pair:

        class Dialling(LocalSocket):
            __slots__ = ()

            def far_reset(self, code: str, message: str) -> None:
                pair.client.reset(code, message)
                super().far_reset(code, message)

        visit = pair.open()
        visit.near_right.__class__ = Dialling
        await pair.until(lambda: pair.client.state.number)
        Moody(pair.client, 0)
        visit.near_left.abort()
        await pair.until(lambda: pair.is_free)
        assert ("client", "lost") not in pair.told


@pytest_twisted.ensureDeferred
async def test_abort_of_a_socket_that_has_closed_is_no_reset(turns: Turns) -> None:
    """The stream is over at the visitor's end, and the server waits for the client's word that it has read all."""
    async with Rig(turns) as rig:
        rig.right.send(b"answer", end=True)
        await rig.until(lambda: rig.left.ended)
        # With a poller, the bytes and the end are one send.
        full = Moody(rig.server, *([1000] if turns.poller is None else []), *[0] * 1000)
        rig.left.socket.send(b"late")
        rig.left.socket.shutdown(socket.SHUT_WR)
        await rig.until(lambda: rig.ends)
        assert rig.server.waiting
        rig.near_left.abort()
        full.takes.clear()
        await rig.until(lambda: rig.right.is_over and rig.told.count(("server", "freed")))
        assert bytes(rig.right.kept) == b"late"
        assert rig.right.ended


@pytest_twisted.ensureDeferred
async def test_nothing_is_taken_behind_the_loss_of_the_connection(turns: Turns) -> None:
    """In one read come bytes, and whoever keeps them aborts; then an opening that no honest server sends so early."""
    opened: list[Opened] = []
    async with Rig(turns) as rig:
        Moody(rig.client, *[0] * 1000)
        rig.right.send(b"x")
        await rig.until(lambda: rig.client.waiting)
        Moody(rig.near_right, 0)
        rig.on_kept, rig.on_opened = rig.near_right.abort, opened.append
        state = rig.server.state
        records = state.pack(DATA, b"data") + state.pack(RESET, encode_reason("limit", ""))
        state.number += 1
        rig.server.socket.send(records + state.pack(OPEN, encode_opening(0, 0, "")))
        await rig.until(lambda: rig.client.fileno() < 0)
        await rig.settle()
        assert not opened
        assert ("client", "lost") in rig.told


# Cuts and stalls


@pytest_twisted.ensureDeferred
async def test_last_bytes_outlive_a_connection_that_is_cut_when_it_is_free(turns: Turns) -> None:
    """The client is free when its last bytes are the system's; a slow visitor still gets them."""
    with Pair(turns, 1 << 18) as pair:
        pair.on_freed = lambda end: end.cut() if end is pair.client else None
        data = random_bytes(300_000)
        visit = pair.open("unix", 4096)
        visit.left.reads = 0
        visit.left.send(b"", end=True)
        await pair.until(lambda: visit.right.ended, *visit.fars)
        visit.right.send(data, end=True)
        await pair.until(lambda: pair.client.fileno() < 0, *visit.fars)
        assert len(pair.told) == 1
        visit.left.reads = 1 << 18
        await pair.until(lambda: visit.left.is_over, *visit.fars)
        assert visit.left.got(data)
        assert visit.left.ended
        await pair.until(lambda: pair.is_free)


@pytest_twisted.ensureDeferred
async def test_reset_behind_bytes_that_nobodytakes_is_given_up(turns: Turns) -> None:
    async with Rig(turns, buffers=SMALL) as rig:
        rig.right.reads = 0
        rig.left.send(bytes(TOO_MUCH))
        # So much that all of it cannot go to the system's buffers once a part is read.
        await rig.until(lambda: rig.server.waiting + unacknowledged(rig.server.socket) > 2 * SMALL)
        rig.left.reset()
        await rig.until(lambda: rig.near_left in rig.ends or rig.near_left._reading is False)
        rig.near_left._lost("the test says so")
        now = 0.0

        def tick(seconds: float) -> None:
            nonlocal now
            for _ in range(int(seconds)):
                now += 1.0
                rig.server.state.has_heard = True
                rig.server.tick(now)

        assert rig.server.waiting
        tick(BROKEN_MAX_STALL - 2)
        # A slow reader takes some of it.
        before = rig.server.waiting + unacknowledged(rig.server.socket)
        enough = rig.right.received + SMALL
        rig.right.reads = 4096
        await rig.until(lambda: rig.right.received >= enough)
        rig.right.reads = 0
        await rig.until(lambda: rig.server.waiting + unacknowledged(rig.server.socket) < before)
        await rig.settle()
        tick(BROKEN_MAX_STALL - 2)
        assert rig.told == []
        tick(3 * BROKEN_MAX_STALL)
        assert rig.told == [("server", "lost")]
