"""What a broken connection still owes, with real connections and on both reactors."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.last_bytes import STALLED, LastBytes, read_on, unacknowledged
from rtunnel.relay.sockets import RESET_ON_CLOSE, SEND_ON_CLOSE, QuietFactory, close_socket
from tests.patience import PATIENCE
from tests.process.harness import poll
from tests.relay.turns import Turns, connected

MUCH = bytes(8 << 20)


@pytest.fixture(params=["running", "epoll"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    turns = Turns(request.param)
    yield turns
    turns.close()


@implementer(IHalfCloseableProtocol)
class Near(Protocol):
    """Our end of a connection."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.told: list[str] = []
        self.reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        self.told.append("end")

    def writeConnectionLost(self) -> None:
        self.told.append("our end")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason


def connect(turns: Turns, kind: str = "tcp") -> tuple[Near, socket.socket]:
    """Return our end, and the far socket."""
    far, ours = connected(kind)
    near = Near()
    turns.reactor.adoptStreamConnection(ours.fileno(), ours.family, QuietFactory.forProtocol(lambda: near))
    ours.close()
    read_on(near.transport)
    return near, far


@pytest_twisted.ensureDeferred
async def test_reset_behind_an_end(turns: Turns) -> None:
    near, far = connect(turns)
    far.shutdown(socket.SHUT_WR)
    await turns.until(lambda: near.told)
    await turns.settle()
    before = near.reason
    close_socket(far, reset=True)
    await turns.until(lambda: near.reason)
    assert before is None
    assert near.reason is not None
    assert near.reason.check(ConnectionLost)
    assert turns.watched() == 0


@pytest_twisted.ensureDeferred
async def test_unix_peer_that_closes_behind_its_end(turns: Turns) -> None:
    """It may have sent all, and want no answer."""
    near, far = connect(turns, "unix")
    far.shutdown(socket.SHUT_WR)
    await turns.until(lambda: near.told)
    far.close()
    await turns.settle()
    assert near.reason is None
    assert turns.watched() == 0
    near.transport.write(b"answer")
    await turns.until(lambda: near.reason)


@pytest_twisted.ensureDeferred
async def test_bytes_go_out_at_once(turns: Turns) -> None:
    """Without a turn of the reactor; what the system does not take goes in order, behind what waits."""
    near, far = connect(turns)
    near.transport.sends_at_once = True
    far.settimeout(PATIENCE)
    near.transport.write(b"now")
    assert far.recv(100) == b"now"
    near.transport.write(MUCH)
    near.transport.write(b"then")
    assert near.transport.dataBuffer or near.transport._tempDataBuffer
    near.transport.loseWriteConnection()
    far.setblocking(False)
    received = bytearray()

    def read() -> bool:
        try:
            received.extend(data := far.recv(1 << 20))
        except BlockingIOError:
            return False
        return not data

    await turns.until(read)
    assert received == MUCH + b"then"
    far.close()
    near.transport.loseConnection()
    await turns.until(lambda: near.reason is not None)
    near.transport.write(b"too late")


@pytest.mark.parametrize("paused", [False, True])
@pytest_twisted.ensureDeferred
async def test_bytes_before_a_reset_are_read(turns: Turns, paused: bool) -> None:
    """They are more than one read, and writes fail meanwhile."""
    near, far = connect(turns)
    if paused:
        near.transport.pauseProducing()
    near.transport.write(MUCH)
    await turns.until(lambda: unacknowledged(near.transport.getHandle()))
    far.setblocking(False)
    sent = far.send(MUCH[:40_000])
    await turns.until(lambda: not unacknowledged(far))
    far.close()  # with bytes unread
    if paused:
        for _ in range(10):
            await turns.turn()
        near.transport.write(b"more")
        near.transport.resumeProducing()
    await turns.until(lambda: near.reason)
    assert len(near.received) == sent
    assert near.told == [], "a reset is no end"


@pytest_twisted.ensureDeferred
async def test_end_before_a_reset_is_an_end(turns: Turns) -> None:
    near, far = connect(turns)
    far.sendall(b"answer")
    near.transport.pauseProducing()
    far.close()
    for _ in range(20):  # the answer to the first of these is a reset
        near.transport.write(b"more")
        await turns.turn()
    near.transport.resumeProducing()
    await turns.until(lambda: "end" in near.told or near.reason)
    near.transport.write(b"more")
    await turns.until(lambda: near.reason)
    assert near.received == b"answer"
    assert near.told == ["end"]


@pytest_twisted.ensureDeferred
async def test_killed_process_resets_until_it_has_said_all(turns: Turns) -> None:
    def linger() -> bytes:
        return near.transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)  # type: ignore[no-any-return]

    near, far = connect(turns)
    assert linger() == RESET_ON_CLOSE
    near.transport.write(b"all")
    near.transport.loseWriteConnection()
    await turns.until(lambda: near.told)
    assert linger() == SEND_ON_CLOSE
    assert far.recv(10) == b"all"
    far.close()
    await turns.until(lambda: "end" in near.told)
    near.transport.loseConnection()
    await turns.until(lambda: near.reason)


@pytest_twisted.ensureDeferred
async def test_connection_that_is_closed_in_good_order_is_not_reset(turns: Turns) -> None:
    near, far = connect(turns)
    near.transport.write(b"all")
    near.transport.loseConnection()
    await turns.until(lambda: near.reason)
    assert far.recv(10) == b"all"
    assert far.recv(10) == b""
    far.close()


@pytest_twisted.ensureDeferred
async def test_connection_that_is_aborted_drops_what_is_unread(turns: Turns) -> None:
    near, far = connect(turns)
    near.transport.pauseProducing()
    far.sendall(b"unread")
    near.transport.abortConnection()
    await turns.until(lambda: near.reason)
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    far.close()


def test_last_bytes_are_waited_for() -> None:
    clock, waiting, done = Clock(), [3, 2, 2, 0], []
    LastBytes(clock, lambda: waiting.pop(0), lambda: done.append("done")).start()
    while waiting:
        assert not done
        clock.advance(1)
    assert done == ["done"]
    assert not clock.getDelayedCalls()


def test_last_bytes_that_do_not_move_are_given_up() -> None:
    clock, waiting, done = Clock(), [7], []
    LastBytes(clock, lambda: waiting[0], lambda: done.append("done")).start()
    for _ in range(int(STALLED) - 1):
        clock.advance(1)
    waiting[0] = 6
    for _ in range(int(STALLED) - 1):
        clock.advance(1)
    assert not done
    clock.advance(2)
    assert done == ["done"]


def test_last_bytes_that_are_not_waited_for_any_more() -> None:
    clock, done = Clock(), []
    last = LastBytes(clock, lambda: 1, lambda: done.append("done"))
    last.start()
    last.cancel()
    assert not clock.getDelayedCalls()


def test_unacknowledged_bytes_of_a_closed_socket() -> None:
    one, other = connected("tcp")
    close_socket(one, reset=True)
    assert unacknowledged(one) == 0
    other.close()


def test_unacknowledged_bytes_of_a_lost_connection() -> None:
    """A service has closed its connection, and then comes a request. It answers by a reset, and never takes it."""
    one, other = connected("tcp")
    other.close()
    one.send(b"request")
    poll(lambda: unacknowledged(one) == 0, PATIENCE, "the reset")
    one.close()
