"""Bytes and the end of a stream that are there together, as a service's answer and its FIN mostly are."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import pytest_twisted

from rtunnel.reverse.carriers.record_socket import COST
from tests.relay.turns import Turns, checked_turns
from tests.reverse.carriers.rig import Recording, Rig, far_ends

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
SIDES = pytest.mark.parametrize("side", ["left", "right"])


@pytest.fixture(params=["running watch", "epoll watch", "running watch sealed"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    """Only a poller tells that the end is there."""
    with checked_turns(request.param) as turns:
        yield turns


@KINDS
@SIDES
@pytest_twisted.ensureDeferred
async def test_bytes_and_end_leave_together(turns: Turns, kind: str, side: str) -> None:
    async with Rig(turns, kind) as rig:
        far, other = far_ends(rig, side)
        await rig.settle()
        connection = Recording(rig.server if side == "left" else rig.client)
        far.socket.send(b"answer")
        far.socket.shutdown(socket.SHUT_WR)
        await rig.until(lambda: other.ended)
        assert bytes(other.kept) == b"answer"
        assert len(connection.sent) == 1
        # The other direction goes on.
        other.send(b"more", end=True)
        await rig.until_over()
        assert bytes(far.kept) == b"more"


@KINDS
@SIDES
@pytest_twisted.ensureDeferred
async def test_bytes_and_end_wait_together(turns: Turns, kind: str, side: str) -> None:
    """What the connection does not take is announced; whoever is told may abort the relay at once."""
    async with Rig(turns, kind) as rig:
        far, other = far_ends(rig, side)
        await rig.settle()
        connection, near = (rig.server, rig.near_left) if side == "left" else (rig.client, rig.near_right)
        Full(connection)
        rig.on_kept = near.abort
        far.socket.send(b"answer")
        far.socket.shutdown(socket.SHUT_WR)
        await rig.until(lambda: rig.ends)
        (kept,) = rig.kept
        assert kept > COST + len(b"answer")
        assert connection.fileno() < 0
        await rig.until(lambda: other.is_over)
        assert other.error is not None or kind == "unix"
        assert not other.kept


class Full(Recording):
    """A socket that takes nothing."""

    def send(self, data: object, *flags: int) -> int:
        raise BlockingIOError


@SIDES
@pytest_twisted.ensureDeferred
async def test_reset_behind_bytes_is_no_end(turns: Turns, side: str) -> None:
    async with Rig(turns) as rig:
        far, other = far_ends(rig, side)
        await rig.settle()
        far.socket.send(b"answer")
        far.reset()
        await rig.until(lambda: other.is_over)
        assert isinstance(other.error, ConnectionResetError)
        assert b"answer".startswith(bytes(other.kept))


@SIDES
@pytest_twisted.ensureDeferred
async def test_short_read_need_not_be_the_last(turns: Turns, side: str) -> None:
    """TCP stops at urgent data, which nothing takes."""
    async with Rig(turns) as rig:
        far, other = far_ends(rig, side)
        await rig.settle()
        far.socket.send(b"before ")
        far.socket.send(b"!", socket.MSG_OOB)
        far.socket.send(b"behind")
        far.socket.shutdown(socket.SHUT_WR)
        await rig.until(lambda: other.ended)
        assert bytes(other.kept) == b"before behind"


@pytest_twisted.ensureDeferred
async def test_event_of_another_socket_is_no_end(turns: Turns) -> None:
    async with Rig(turns) as rig:
        await rig.settle()
        rig.right.socket.send(b"one")
        rig.near_right.doLastRead()
        await rig.until(lambda: rig.left.received == 3)
        rig.near_right.doLastRead()
        rig.right.send(b" two", end=True)
        await rig.until(lambda: rig.left.ended)
        assert bytes(rig.left.kept) == b"one two"
