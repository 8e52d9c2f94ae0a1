"""A listening socket moves to another address, and connections that were accepted do not notice."""

from __future__ import annotations

import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.application.service import MultiService
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory, Protocol

from rtunnel.addresses import ListenAddress
from rtunnel.errors import StartupError
from rtunnel.upkeep.listening import Listener, moved
from tests.leftovers import TestLog
from tests.ports import free_port
from tests.reverse.net import until

Listen = Callable[[str], Listener]


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


def build(address: ListenAddress) -> Listener:
    from twisted.internet import reactor

    return Listener(reactor, address, Factory.forProtocol(Echo), "control port", "--control-listen")


@pytest_twisted.async_yield_fixture
async def parent() -> AsyncIterator[MultiService]:
    parent = MultiService()
    parent.startService()
    yield parent
    await maybeDeferred(parent.stopService)


@pytest.fixture
def listener(parent: MultiService) -> Listener:
    listener = build(ListenAddress.parse(f"127.0.0.1:{free_port()}"))
    listener.setServiceParent(parent)
    return listener


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host.replace("0.0.0.0", "127.0.0.1"), int(port)))
    connection.setblocking(False)
    return connection


async def echoes(connection: socket.socket) -> None:
    got = b""

    def look() -> bool:
        nonlocal got
        try:
            got += connection.recv(100)
        except BlockingIOError:
            return False
        return got == b"hello"

    connection.send(b"hello")
    await until(look, "an echo")


def refuses(address: str) -> bool:
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True
    return False


@ensureDeferred
async def test_it_moves(listener: Listener, logged: TestLog) -> None:
    before, now = listener.local_address, f"127.0.0.1:{free_port()}"
    with connect(before) as old:
        await echoes(old)
        # This one has not been accepted by us yet, only by the system.
        with connect(before) as waits:
            await listener.move(ListenAddress.parse(now))
            await echoes(old)
            await echoes(waits)
    assert listener.local_address == now
    assert refuses(before)
    with connect(now) as new:
        await echoes(new)
    assert f"control port listening on {now}" in logged.text()


@ensureDeferred
async def test_to_where_it_is(listener: Listener) -> None:
    port = listener._port
    await listener.move(ListenAddress.parse(f"tcp:{listener.local_address.rpartition(':')[2]}:interface=127.0.0.1"))
    assert listener._port is port


@ensureDeferred
async def test_where_somebody_else_is(listener: Listener) -> None:
    before = listener.local_address
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{taken}.*--control-listen"):
            await listener.move(ListenAddress.parse(f"127.0.0.1:{taken}"))
    assert listener.local_address == before
    with connect(before) as connection:
        await echoes(connection)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it has to be told")
@ensureDeferred
async def test_from_loopback_to_all_addresses_and_back(listener: Listener) -> None:
    """Its own socket is in the way."""
    number = listener.local_address.rpartition(":")[2]
    with connect(listener.local_address) as old:
        await echoes(old)
        for address in (f"0.0.0.0:{number}", f"127.0.0.1:{number}"):
            await listener.move(ListenAddress.parse(address))
            assert listener.local_address == address
            with connect(address) as new:
                await echoes(new)
        await echoes(old)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it has to be told")
@ensureDeferred
async def test_its_own_socket_and_another_are_in_the_way(listener: Listener) -> None:
    before = listener.local_address
    number = int(before.rpartition(":")[2])
    with socket.create_server(("127.0.0.2", number)), pytest.raises(StartupError, match="in use"):
        await listener.move(ListenAddress.parse(f"0.0.0.0:{number}"))
    assert listener.local_address == before
    with connect(before) as connection:
        await echoes(connection)


@ensureDeferred
async def test_a_unix_socket_gets_another_mode(parent: MultiService, tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = build(ListenAddress.parse(f"unix:{path}:mode=600"))
    listener.setServiceParent(parent)
    with socket.socket(socket.AF_UNIX) as old:
        old.connect(str(path))
        old.setblocking(False)
        for mode in ("666", "600"):
            await listener.move(ListenAddress.parse(f"unix:{path}:mode={mode}"))
            assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
            with socket.socket(socket.AF_UNIX) as new:
                new.connect(str(path))
                new.setblocking(False)
                await echoes(new)
        # Whoever was in the queue is served, too.
        await echoes(old)


@ensureDeferred
async def test_one_comes_moves_and_goes(parent: MultiService) -> None:
    one, other = (ListenAddress.parse(f"127.0.0.1:{free_port()}") for _ in range(2))
    assert await moved(None, None, build, parent) is None
    listener = await moved(None, one, build, parent)
    assert listener is not None
    assert listener.running
    assert not refuses(str(one))
    assert await moved(listener, other, build, parent) is listener
    assert not refuses(str(other))
    assert await moved(listener, None, build, parent) is None
    assert refuses(str(other))
    assert list(parent) == []


@ensureDeferred
async def test_one_that_cannot_come_leaves_nothing(parent: MultiService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = ListenAddress.parse(f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(StartupError):
            await moved(None, address, build, parent)
    assert list(parent) == []
    assert await moved(None, address, build, parent) is not None
