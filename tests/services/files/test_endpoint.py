"""The way to a directory through a pair of sockets, with the real reactor."""

from __future__ import annotations

import errno
import gc
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress
from rtunnel.relay.sockets import take_socket
from rtunnel.services.files.endpoint import service_endpoint
from rtunnel.upkeep.descriptors import open_descriptors

reactor: Any = global_reactor


class Reader(Protocol):
    """Asks for something, and fires *over* with all that has come when the connection is over."""

    def __init__(self, request: bytes = b"") -> None:
        self.request = request
        self.received = b""
        self.over: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.request)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over.callback(self.received)


def endpoint(root: Path, path: str = "") -> Any:
    return service_endpoint(reactor, DialAddress.of_directory(f"files:{root}", root), 5.0, path)


def dial(root: Path, request: bytes = b"") -> Any:
    return endpoint(root).connect(Factory.forProtocol(lambda: Reader(request)))


async def until(condition: Any) -> None:
    while not condition():
        await deferLater(reactor, 0.01)


def descriptors() -> int:
    """How many are open, but for what earlier tests have left to the collector."""
    gc.collect()
    return open_descriptors()


def test_other_services_are_dialled() -> None:
    assert isinstance(service_endpoint(reactor, DialAddress.parse("127.0.0.1:80"), 5.0), TCP4ClientEndpoint)


@pytest_twisted.ensureDeferred
async def test_a_request(share: Path) -> None:
    before = descriptors()
    reader = await dial(share, b"GET /a.txt HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert (await reader.over).endswith(b"\r\n\r\n0123456789")
    assert open_descriptors() <= before


@pytest_twisted.ensureDeferred
async def test_the_path_of_a_tunnel(share: Path) -> None:
    request = b"GET /my%20files/a.txt HTTP/1.0\r\n\r\n"
    factory = Factory.forProtocol(lambda: Reader(request))
    reader = await endpoint(share, "/my%20files").connect(factory)
    assert (await reader.over).endswith(b"0123456789")


@pytest_twisted.ensureDeferred
async def test_the_socket_can_be_taken(share: Path) -> None:
    """As relays do, so that the kernel moves what it can."""
    reader = await dial(share)
    sock, unsent = take_socket(reader.transport)
    assert unsent == b""
    sock.send(b"GET /a.txt HTTP/1.0\r\n\r\n")
    received = b""
    while not received.endswith(b"0123456789"):
        await deferLater(reactor, 0)
        try:
            received += sock.recv(65536)
        except BlockingIOError:
            continue
    sock.close()


@pytest_twisted.ensureDeferred
async def test_who_does_not_read_gets_no_more_than_buffers_hold(share: Path) -> None:
    """A file of 200 MB; and when the reader is gone, it is closed."""
    with (share / "large").open("wb") as file:
        file.truncate(200_000_000)
    read = 0
    before = descriptors()
    pread = os.pread

    def counted(descriptor: int, size: int, at: int) -> bytes:
        nonlocal read
        read += size
        return pread(descriptor, size, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", counted)
        reader = await dial(share, b"GET /large HTTP/1.1\r\n\r\n")
        transport: Any = reader.transport
        transport.pauseProducing()
        seen = -1
        while seen != read:
            seen = read
            for _ in range(20):
                await deferLater(reactor, 0)
        assert 0 < read < 4_000_000
        transport.abortConnection()
        await reader.over
        await until(lambda: open_descriptors() <= before)


@pytest_twisted.ensureDeferred
async def test_an_attempt_is_given_up(share: Path) -> None:
    before = descriptors()
    dialling = dial(share)
    dialling.cancel()
    with pytest.raises(CancelledError):
        await dialling
    assert open_descriptors() <= before


@pytest_twisted.ensureDeferred
async def test_no_descriptors_are_left(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", fail)
    with pytest.raises(OSError, match="Too many open files"):
        await dial(share)
