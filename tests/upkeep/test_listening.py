"""Listening sockets as services."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Port

from rtunnel.addresses import ListenAddress
from rtunnel.errors import StartupError
from rtunnel.upkeep.listening import Listener
from tests.leftovers import TestLog
from tests.ports import free_port


def listener(address: str, **more: Any) -> Listener:
    from twisted.internet import reactor

    factory = Factory.forProtocol(Protocol)
    return Listener(reactor, ListenAddress.parse(address), factory, "control port", "--control-listen", **more)


@ensureDeferred
async def test_it_listens_before_it_starts_and_once(logged: TestLog) -> None:
    ports: list[Any] = []
    service = listener("127.0.0.1:0", on_listening=ports.append)
    assert (service.local_address, service.is_public) == ("127.0.0.1:0", False)
    service.privilegedStartService()
    service.startService()
    (port,) = ports
    assert isinstance(port, Port)
    address = ("127.0.0.1", port.getHost().port)
    assert service.local_address == f"127.0.0.1:{address[1]}"
    assert not service.is_public
    assert f"control port listening on {service.local_address}" in logged.text()
    with socket.create_connection(address):
        await service.stopService()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address).close()


@ensureDeferred
async def test_it_can_be_stopped_twice() -> None:
    service = listener("127.0.0.1:0")
    service.startService()
    await service.stop_listening()
    await service.stopService()


@ensureDeferred
async def test_port_that_others_can_reach() -> None:
    service = listener("0.0.0.0:0")
    service.startService()
    assert service.is_public
    await service.stopService()


def test_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartupError) as caught:
            listener(address).privilegedStartService()
    assert str(caught.value) == (
        f"cannot listen on {address} (control port): Address already in use; "
        "stop what holds it, or choose another address with --control-listen"
    )
