"""A local service is dialled for a stream: bytes that come before the connection, and attempts that fail."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionRefusedError, TimeoutError as ConnectTimeout
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rtunnel.errors import Code
from rtunnel.relay.dial import Dial
from rtunnel.relay.last_bytes import LastBytes
from rtunnel.testing import memory_streams
from tests.no_collector import Left, no_collector
from tests.relay.fakes import FakeEndpoint, Lives, Recorder, lose
from tests.reverse.net import HOST, LocalService, Peer, reactor, turns, until


class Dialling:
    """A stream whose service is being dialled."""

    def __init__(self, window: int = 65536, endpoint: Any = None) -> None:
        self.lives = Lives()
        self.end = self.lives.end()
        self.near, self.far = memory_streams(window)
        self.near.user, self.peer = self.end, Recorder()
        self.far.user = self.peer
        self.failures: list[Failure] = []
        self.endpoint = endpoint or FakeEndpoint()
        self.end.attach(self.near)
        self.end.dial(self.endpoint, self.failures.append)


@pytest.fixture
def dialling() -> Dialling:
    return Dialling()


def test_bytes_that_come_before_the_connection(dialling: Dialling) -> None:
    dialling.far.write(b"GET ")
    dialling.far.write(b"/")
    assert dialling.near.delivered_count == 0
    socket = dialling.endpoint.succeed()
    assert socket.value() == b"GET /"
    assert dialling.near.delivered_count == 5
    assert dialling.lives.made == [dialling.end]


def test_bytes_before_the_connection_are_bounded_by_the_window() -> None:
    dialling = Dialling(window=10)
    dialling.far.write(b"x" * 100)
    assert dialling.near.waiting == 10
    assert dialling.endpoint.succeed().value() == b"x" * 100


def test_end_that_comes_before_the_connection(dialling: Dialling) -> None:
    dialling.far.write(b"request")
    dialling.far.finish()
    socket = dialling.endpoint.succeed()
    assert socket.value() == b"request"
    assert socket.half_closed
    assert not socket.disconnecting


def test_close_that_comes_before_the_connection(dialling: Dialling) -> None:
    dialling.far.write(b"all there is")
    dialling.end.closed()
    socket = dialling.endpoint.succeed()
    assert socket.value() == b"all there is"
    assert socket.disconnecting


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError("nobody there"), Code.LOCAL_UNREACHABLE),
        (ConnectTimeout("took too long"), Code.LOCAL_TIMEOUT),
    ],
)
def test_failure_resets_the_stream_with_the_reason(dialling: Dialling, error: Exception, code: Code) -> None:
    dialling.far.write(b"for nobody")
    dialling.endpoint.result.errback(Failure(error))
    assert dialling.peer.reset is not None
    assert dialling.peer.reset[0] == code
    assert str(error.args[0]) in dialling.peer.reset[1]
    assert [failure.value for failure in dialling.failures] == [error]
    assert dialling.lives.lost == [dialling.end]
    assert dialling.lives.made == []


def test_stream_that_is_reset_meanwhile_cancels_the_dialling(dialling: Dialling) -> None:
    dialling.far.reset(Code.CONNECTION_LOST, "the visitor went away")
    assert dialling.endpoint.cancelled
    assert dialling.failures == [], "a service that was given up is not down"
    assert dialling.lives.lost == [dialling.end]


def test_abort_while_dialling_resets_the_stream(dialling: Dialling) -> None:
    dialling.end.abort()
    assert dialling.endpoint.cancelled
    assert dialling.failures == []
    assert dialling.peer.reset is not None
    assert dialling.lives.lost == [dialling.end]


def test_connection_lost_after_dialling(dialling: Dialling) -> None:
    dialling.endpoint.succeed()
    lose(dialling.end, cleanly=False)
    assert dialling.peer.reset is not None
    assert dialling.peer.reset[0] == Code.CONNECTION_LOST
    assert dialling.lives.lost == [dialling.end]


@pytest.mark.parametrize("how", ["ended", "broken", "reset"])
@pytest_twisted.ensureDeferred
async def test_an_end_that_was_dialled_goes_at_once(how: str) -> None:
    """Twisted's endpoints, factories and connectors refer to each other."""

    async def dial() -> Left:
        dialling = Dialling(endpoint=TCP4ClientEndpoint(reactor, HOST, service.port))
        peer = await service.peer()
        await until(lambda: dialling.end.is_connected, "a connection")
        left = Left([dialling.end, dialling.end.transport])
        if how == "ended":
            peer.close()
            dialling.far.finish()
        elif how == "broken":
            peer.abort()
        else:
            dialling.far.reset(Code.CONNECTION_LOST, "")
        await until(lambda: dialling.lives.lost, "the end")
        await peer.ends()
        # The test's own reference cycles.
        dialling.near.user = dialling.peer
        dialling.lives.made.clear()
        dialling.lives.lost.clear()
        return left

    service = LocalService(Peer)
    await service.listen()
    with no_collector():
        left = await dial()
        await turns()
        await service.stop()
        assert not left()


def test_whoever_waits_for_the_last_bytes_goes_at_once() -> None:
    class Waiting:
        def __init__(self) -> None:
            self.count = 1
            self.bytes = LastBytes(clock, self.waiting, self.then)
            self.bytes.start()

        def waiting(self) -> int:
            return self.count

        def then(self) -> None:
            assert not self.count

    clock = Clock()
    with no_collector():
        done, cancelled = Waiting(), Waiting()
        left = Left([done, cancelled])
        done.count = 0
        cancelled.bytes.cancel()
        del done, cancelled
        clock.advance(1)
        assert not left()


def test_whoever_dials_a_socket_goes_at_once() -> None:
    class Dialler:
        def __init__(self, port: int) -> None:
            self.dial = Dial(reactor, self.made, self.failed)
            self.dial.start(socket.AF_INET, (HOST, port))

        def made(self, sock: socket.socket) -> None:
            sock.close()

        def failed(self, error: OSError) -> None:
            raise error

    with no_collector(), socket.create_server((HOST, 0)) as listening:
        dialler = Dialler(listening.getsockname()[1])
        left = Left([dialler])
        del dialler
        assert not left()
