"""Relays over a data connection, on both reactors: bytes, back-pressure, ends and resets."""

from __future__ import annotations

import errno
import random
import select
import socket

import pytest
import pytest_twisted
from twisted.internet.epollreactor import EPollReactor

from rtunnel.relay.last_bytes import unacknowledged
from rtunnel.relay.polled_socket import SPLICE_SIZE
from rtunnel.relay.sockets import RESET_ON_CLOSE
from rtunnel.reverse.carriers.record_writer import SEALED_SIZE
from rtunnel.wire.data.records import READ_SIZE
from tests.relay.turns import Far, Turns, random_bytes
from tests.reverse.carriers.rig import SIDES, Rig, far_ends

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])

#: The size of the kernel's buffers where a relay is to be full. Below a segment's size, loopback becomes slow.
SMALL = 65536
#: More bytes than such connections and the relay keep on the way to a peer that does not read.
TOO_MUCH = 6 << 20
FULL = random_bytes(TOO_MUCH)


PHASES = pytest.mark.parametrize("phase", ["new", "idle", "first bytes", "bulk", "full", "half-closed"])


# Bytes and ends


@KINDS
@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
@pytest_twisted.ensureDeferred
async def test_bytes_and_ends_both_ways(turns: Turns, kind: str, size: int) -> None:
    async with Rig(turns, kind) as rig:
        there, back = random_bytes(size, 1), random_bytes(size, 2)
        rig.left.send(there, end=True)
        rig.right.send(back, end=True)
        await rig.until_over()
        assert rig.right.got(there)
        assert rig.left.got(back)
        assert rig.left.ended
        assert rig.right.ended


@KINDS
@SIDES
@pytest_twisted.ensureDeferred
async def test_half_close_of_one_side_leaves_the_other_direction(turns: Turns, kind: str, side: str) -> None:
    async with Rig(turns, kind) as rig:
        asking, answering = far_ends(rig, side)
        asking.send(b"request", end=True)
        await rig.until(lambda: answering.ended)
        assert bytes(answering.kept) == b"request"
        assert not rig.ends
        answer = random_bytes(2_000_000)
        answering.send(answer)
        await rig.until(lambda: asking.got(answer))
        assert not asking.ended
        answering.send(b"", end=True)
        await rig.until_over()
        assert asking.ended


@KINDS
@SIDES
@pytest_twisted.ensureDeferred
async def test_end_waits_for_what_a_slow_reader_has_not_taken(turns: Turns, kind: str, side: str) -> None:
    data = random_bytes(TOO_MUCH)
    async with Rig(turns, kind, SMALL) as rig:
        sending, slow = far_ends(rig, side)
        slow.reads = 0
        sending.send(data)
        await rig.settle()
        assert 0 < sending.sent < len(data)
        sending.end_behind = True
        slow.reads = 1 << 16
        slow.send(b"", end=True)
        await rig.until_over()
        assert slow.got(data)


@pytest.mark.parametrize("seed", range(6))
@KINDS
@pytest_twisted.ensureDeferred
async def test_chunks_of_any_size_at_any_pace(turns: Turns, kind: str, seed: int) -> None:
    """With small and bulk writes, readers that pause, and small kernel buffers, nothing is lost, doubled or swapped."""
    chance = random.Random(seed)
    buffers = chance.choice([0, 16384, 65536])
    # A window below a segment's size moves about 30 KiB in 200 ms on loopback.
    largest = 15 if buffers == 16384 else 19
    async with Rig(turns, kind, buffers=buffers) as rig:
        sent: dict[Far, bytearray] = {rig.left: bytearray(), rig.right: bytearray()}
        for _ in range(60):
            far = chance.choice(rig.fars)
            chunk = chance.randbytes(int(2 ** chance.uniform(0, largest)))
            far.send(chunk)
            sent[far] += chunk
            for each in rig.fars:
                each.reads = chance.choice([0, 1, 1000, 1 << 18, 1 << 18])
            for _ in range(chance.randrange(10)):
                for each in rig.fars:
                    each.step()
                await turns.turn()
        for far in rig.fars:
            far.reads = 1 << 18
            far.send(b"", end=True)
        await rig.until_over()
        assert rig.right.got(bytes(sent[rig.left]))
        assert rig.left.got(bytes(sent[rig.right]))


@pytest_twisted.ensureDeferred
async def test_touched_by_bytes_of_both_directions(turns: Turns) -> None:
    async with Rig(turns) as rig:
        for far in rig.fars:
            for size in (1, 1_000_000):
                await rig.settle()
                for near in rig.nears:
                    assert near.touched
                    near.touched = False
                await rig.settle()
                assert not rig.near_left.touched
                assert not rig.near_right.touched
                far.send(bytes(size))
                await rig.until(lambda: rig.near_left.touched and rig.near_right.touched)


# Back-pressure


@KINDS
@SIDES
@pytest_twisted.ensureDeferred
async def test_nothing_is_read_while_the_other_side_does_not_take(turns: Turns, kind: str, side: str) -> None:
    async with Rig(turns, kind, buffers=SMALL) as rig:
        sending, slow = far_ends(rig, side)
        slow.reads = 0
        sending.send(bytes(TOO_MUCH))
        await rig.settle()
        # The kernel keeps up to twice the requested size, per direction and connection; the rest is one buffer or pipe.
        assert sending.sent < 16 * SMALL + 2 * SPLICE_SIZE
        assert sum(near.waiting for near in rig.nears) <= max(SPLICE_SIZE, READ_SIZE)
        assert sum(end.waiting for end in rig.both) <= SPLICE_SIZE + 64
        assert sum(near.held for near in rig.nears) < READ_SIZE + 2 * SEALED_SIZE + 16384
        # This does not hold up the other direction.
        slow.send(b"still there")
        await rig.until(lambda: sending.received)
        assert bytes(sending.kept) == b"still there"


@SIDES
@pytest_twisted.ensureDeferred
async def test_calls_in_vain_change_nothing(turns: Turns, side: str) -> None:
    """A reactor may deliver an event that it had read before the relay stopped watching."""
    data = random_bytes(TOO_MUCH)
    async with Rig(turns, buffers=SMALL) as rig:
        sending, slow = far_ends(rig, side)
        slow.reads = 0
        sending.send(data, end=True)
        await rig.settle()
        for each in (*rig.nears, *rig.both):
            each.doRead()
            each.doWrite()
        slow.reads = 1 << 18
        slow.send(b"", end=True)
        await rig.until_over()
        for each in (*rig.nears, *rig.both):
            each.doRead()
            each.doWrite()
        assert slow.got(data)


@pytest_twisted.ensureDeferred
async def test_bulk_does_not_keep_others_waiting(turns: Turns) -> None:
    """While a bulk transfer runs, a small request is answered after a bounded number of bytes."""
    async with Rig(turns) as bulk, Rig(turns) as small:
        bulk.left.send(bytes(64 << 20))
        await turns.until(lambda: bulk.right.received > 4 << 20, *bulk.fars)
        for _ in range(20):
            before = bulk.right.received
            small.left.send(b"?")
            want = small.right.received + 1
            small.left.step()
            while small.right.received < want:
                for far in bulk.fars:
                    far.step()
                await turns.turn()
                small.right.step()
            assert bulk.right.received - before <= 8 << 20
        bulk.right.reads = 0


# Resets


async def bring_to(rig: Rig, phase: str, far: Far, other: Far) -> None:
    """Bring a relay that is not started to *phase*. *far* is the side that will break."""
    if phase == "first bytes":
        far.send(b"x" * 100)
        far.step()
    if phase != "new":
        rig.start()
        await rig.until(lambda: rig.client.state.number)
    if phase == "bulk":
        other.send(bytes(TOO_MUCH))
        await rig.until(lambda: far.received > 1 << 20)
    elif phase == "full":
        far.reads = other.reads = 0
        far.send(FULL)
        other.send(FULL)
        # Where a buffer was full, the kernel looks for room again after a while.
        await rig.until(lambda: all(end.waiting for end in (*rig.nears, *rig.both)))
        await rig.settle()
    elif phase == "half-closed":
        other.send(b"request", end=True)
        await rig.until(lambda: far.ended)


@PHASES
@SIDES
@pytest_twisted.ensureDeferred
async def test_reset_of_one_side_resets_the_other(turns: Turns, side: str, phase: str) -> None:
    async with Rig(turns, buffers=SMALL, start=False) as rig:
        far, other = far_ends(rig, side)
        await bring_to(rig, phase, far, other)
        far.reset()
        if phase == "new":
            rig.start()
        other.reads = 1 << 18
        await rig.until(lambda: rig.ends and other.is_over)
        assert isinstance(other.error, ConnectionResetError)


@SIDES
@pytest_twisted.ensureDeferred
async def test_reset_behind_an_end(turns: Turns, side: str) -> None:
    """It shows at once, or where there is no epoll, with the next byte that is written."""
    async with Rig(turns) as rig:
        far, other = far_ends(rig, side)
        far.send(b"request", end=True)
        await rig.until(lambda: other.ended)
        far.reset()
        if turns.poller is None:
            await rig.settle()
            assert not rig.ends
            other.send(b"answer")
        await rig.until(lambda: len(rig.ends) == 2)
        assert turns.watched() == len(rig.both)
        assert other.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (errno.EPIPE, errno.ECONNRESET)


@pytest_twisted.ensureDeferred
async def test_unix_peer_that_closes_behind_its_end_is_no_reset(turns: Turns) -> None:
    """Of a UNIX socket, closing says no more than the end did: what was sent before may still be of use."""
    async with Rig(turns, "unix tcp") as rig:
        rig.left.send(b"request", end=True)
        await rig.until(lambda: rig.right.ended)
        rig.left.socket.close()
        await rig.settle()
        assert not rig.ends
        assert rig.right.error is None
        if turns.poller is not None:
            assert select.select([turns.poller], [], [], 0) == ([], [], []), "it is told again and again"
        rig.right.send(b"answer")
        await rig.until(lambda: len(rig.ends) == 2)


@SIDES
@pytest_twisted.ensureDeferred
async def test_bytes_before_a_reset_come_before_it(turns: Turns, side: str) -> None:
    """The relay waits for both peers when one resets: it can write to neither, and has not read everything."""
    if turns.reactor.__class__ is EPollReactor and turns.poller is None:
        return  # it takes a reset for the loss of what is not being read; where there is epoll, our poller is used
    async with Rig(turns, buffers=SMALL, start=False) as rig:
        far, other = far_ends(rig, side)
        await bring_to(rig, "full", far, other)
        arrived = far.sent - unacknowledged(far.socket)
        far.reset()
        await rig.settle()
        assert not other.is_over
        other.reads = 1 << 18
        await rig.until(lambda: other.is_over)
        assert other.received >= arrived
        assert other.got(FULL[: other.received])
        assert isinstance(other.error, ConnectionResetError)


@SIDES
@pytest_twisted.ensureDeferred
async def test_end_before_a_reset_comes_before_it(turns: Turns, side: str) -> None:
    """A service answers, closes, and is sent more."""
    async with Rig(turns) as rig:
        far, other = far_ends(rig, side)
        far.send(b"answer")
        await rig.until(lambda: other.received == 6)
        far.socket.close()
        await rig.until(lambda: other.ended)
        assert other.error is None
        other.send(bytes(TOO_MUCH))
        await rig.until(lambda: rig.ends)


@pytest_twisted.ensureDeferred
async def test_peer_that_takes_no_more_is_still_read(turns: Turns) -> None:
    async with Rig(turns, "unix tcp") as rig:
        rig.left.socket.shutdown(socket.SHUT_RD)
        rig.left.reads = 0
        rig.right.send(bytes(TOO_MUCH))
        await rig.until(lambda: rig.right.sent == TOO_MUCH)
        rig.left.send(b"answer", end=True)
        await rig.until(lambda: rig.right.is_over)
        assert bytes(rig.right.kept) == b"answer"
        assert rig.right.ended, "its end comes before the reset"


@pytest_twisted.ensureDeferred
async def test_process_that_is_killed_resets_until_it_has_said_all(turns: Turns) -> None:
    def would_reset(sock: socket.socket) -> bool:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == RESET_ON_CLOSE

    async with Rig(turns) as rig:
        assert would_reset(rig.inner_left)
        assert would_reset(rig.inner_right)
        rig.left.send(b"all", end=True)
        await rig.until(lambda: rig.right.ended)
        assert would_reset(rig.inner_left)
        assert not would_reset(rig.inner_right)


@PHASES
@KINDS
@pytest_twisted.ensureDeferred
async def test_abort_resets_both_sides(turns: Turns, kind: str, phase: str) -> None:
    async with Rig(turns, kind, SMALL, start=False) as rig:
        await bring_to(rig, phase, rig.left, rig.right)
        rig.near_left.abort()
        assert rig.ends == [rig.near_left]
        rig.near_left.abort()
        rig.near_left.start()
        if phase == "new":
            return
        for far in rig.fars:
            far.reads = 1 << 18
        await rig.until(lambda: all(far.is_over for far in rig.fars))
        if kind == "tcp":
            assert isinstance(rig.right.error, ConnectionResetError)
            assert isinstance(rig.left.error, ConnectionResetError) or phase == "half-closed"
        # What waits is not sent behind an abort, so that connection is lost.
        assert (("server", "lost") in rig.told) == (phase == "full")


@SIDES
@pytest_twisted.ensureDeferred
async def test_reader_that_goes_away_ends_the_sender(turns: Turns, side: str) -> None:
    """If a peer closes with bytes unread, or before bytes arrive, the other end learns that they did not arrive."""
    async with Rig(turns, buffers=SMALL) as rig:
        gone, sending = far_ends(rig, side)
        gone.reads = 0
        sending.send(bytes(TOO_MUCH))
        await rig.settle()
        gone.socket.close()
        await rig.until(lambda: rig.ends and sending.is_over)
        assert sending.error is not None


@SIDES
@KINDS
@pytest_twisted.ensureDeferred
async def test_what_a_socket_does_not_take_is_announced(turns: Turns, kind: str, side: str) -> None:
    """Whoever is told may abort the relay at once, in the middle of its read."""
    async with Rig(turns, kind, SMALL) as rig:
        sending, slow = far_ends(rig, side)

        def abort() -> None:
            assert sum(near.held for near in rig.nears) > rig.kept[-1] > 0
            for near in rig.nears:
                near.abort()

        rig.on_kept = abort
        # Otherwise most of it goes through a pipe.
        for end in (*rig.nears, *rig.both):
            end.may_splice = False
        slow.reads = 0
        sending.send(bytes(TOO_MUCH))
        await rig.until(lambda: len(rig.ends) == 2)
        assert len(rig.kept) == 1
        assert sum(near.held for near in rig.nears) < SEALED_SIZE
