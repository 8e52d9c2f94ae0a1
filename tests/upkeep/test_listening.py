"""Listening sockets as services."""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Port
from twisted.logger import LogEvent

from rtunnel.addresses import ListenAddress
from rtunnel.errors import StartupError
from rtunnel.upkeep.listening import Listener
from rtunnel.upkeep.log_limiter import LogBudget
from tests.leftovers import TestLog
from tests.needs import needs_ipv6
from tests.ports import free_port
from tests.reverse.net import turns, until


class Kept(Protocol):
    """A connection that was accepted."""

    made: ClassVar[list[Any]] = []
    on_made: ClassVar[Callable[[], None]]

    def connectionMade(self) -> None:
        self.made.append(self)
        type(self).on_made()


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    Kept.made.clear()
    Kept.on_made = lambda: None


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def listener(address: str, **more: Any) -> Listener:
    from twisted.internet import reactor

    factory = Factory.forProtocol(Kept)
    return Listener(reactor, ListenAddress.parse(address), factory, "control port", "--control-listen", **more)


@ensureDeferred
async def test_it_listens_before_it_starts_and_once(logged: TestLog) -> None:
    service = listener("127.0.0.1:0")
    assert (service.local_address, service.is_public) == ("127.0.0.1:0", False)
    service.privilegedStartService()
    service.startService()
    port: Any = service._port
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
async def test_a_thousand_that_start_at_once_are_all_in_the_log(logged: TestLog) -> None:
    """They are not counted as lines that strangers cause."""
    service = listener("127.0.0.1:0")
    service.startService()
    (said,) = [event for event in logged.events if event.get("what") == "control port"]
    written: list[LogEvent] = []
    budget = LogBudget(written.append, lambda _event: 120, lambda: 0.0)  # type: ignore[arg-type]
    for _ in range(1000):
        budget(said)
    assert written == [said] * 1000
    await service.stopService()


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


def attempt(address: tuple[str, int]) -> str:
    """Whether somebody can connect."""
    try:
        socket.create_connection(address).close()
    except OSError as error:
        return type(error).__name__
    return "open"


def bind_and_listen(sock: socket.socket, address: tuple[str, int]) -> str | None:
    try:
        sock.bind(address)
        sock.listen()
    except OSError as error:
        return error.strerror
    return None


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="a port can be closed and kept on Linux only")


@needs_linux
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("[::1]", marks=needs_ipv6)])
@pytest.mark.parametrize("chosen_by", ["us", "the system"])
@ensureDeferred
async def test_port_that_is_closed_and_kept(host: str, chosen_by: str, logged: TestLog) -> None:
    bare_host = host.strip("[]")
    wanted = free_port(bare_host) if chosen_by == "us" else 0
    service = listener(f"{host}:{wanted}", is_open=False)
    service.startService()
    address = (bare_host, int(service.local_address.rpartition(":")[2]))
    assert f"control port {host}:{address[1]} is closed until somebody serves it" in logged.text()
    assert attempt(address) == "ConnectionRefusedError"
    for _ in range(3):
        service.accept()
        service.accept()
        with socket.create_connection(address) as early:
            await until(lambda: Kept.made)
            service.refuse()
            service.refuse()
            assert attempt(address) == "ConnectionRefusedError"
            # Nobody else can have it meanwhile, whether it has SO_REUSEADDR or not.
            for reuse in (0, 1):
                with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as other:
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                    assert bind_and_listen(other, address) == "Address already in use"
            Kept.made.pop().transport.write(b"still here")
            early.setblocking(False)
            await until(partial(readable, early))
            assert early.recv(100) == b"still here"
    service.accept()
    assert attempt(address) == "open"
    assert f"control port listening on {host}:{address[1]}" in logged.text()
    service.refuse()
    assert f"control port {host}:{address[1]} is closed: nobody serves it" in logged.text()
    await service.stopService()
    service.accept()
    assert attempt(address) == "ConnectionRefusedError"


@needs_linux
@ensureDeferred
async def test_port_that_is_closed_moves_to_other_addresses_of_its_number() -> None:
    """It is in the way of itself, though nobody can connect."""
    number = free_port()
    service = listener(f"127.0.0.1:{number}", is_open=False)
    service.startService()
    with socket.create_server(("127.0.0.2", number)), pytest.raises(StartupError, match="Address already in use"):
        await service.move(ListenAddress.parse(f":{number}"))
    with socket.socket() as other:
        # It is still nobody else's.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        assert bind_and_listen(other, ("127.0.0.1", number)) == "Address already in use"
    for host in ("", "127.0.0.1"):
        await service.move(ListenAddress.parse(f"{host}:{number}"))
        assert attempt(("127.0.0.1", number)) == "ConnectionRefusedError"
        service.accept()
        assert attempt(("127.0.0.1", number)) == "open"
        service.refuse()
    await service.stopService()


@needs_linux
@ensureDeferred
async def test_port_that_is_closed_while_it_accepts() -> None:
    """Those that are still in its queue are reset; the port itself is well."""
    service = listener("127.0.0.1:0")
    service._factory = Factory.forProtocol(Kept)
    service.startService()
    host, _, number = service.local_address.rpartition(":")
    Kept.on_made = service.refuse
    sockets = [socket.create_connection((host, int(number))) for _ in range(3)]
    await until(lambda: Kept.made)
    await turns()
    assert len(Kept.made) == 1
    assert attempt((host, int(number))) == "ConnectionRefusedError"
    service.accept()
    assert attempt((host, int(number))) == "open"
    for sock in sockets:
        sock.close()
    await service.stopService()


@ensureDeferred
async def test_port_that_cannot_be_closed_stays_open(tmp_path: Path, logged: TestLog) -> None:
    service = listener(f"unix:{tmp_path}/door", is_open=False)
    service.startService()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{tmp_path}/door")
    service.refuse()
    service.accept()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{tmp_path}/door")
    assert f"control port listening on unix:{tmp_path}/door" in logged.text()
    await service.stopService()


@pytest.mark.parametrize(
    ("address", "mode"), [("unix:{}", 0o600), ("unix:{}:mode=660", 0o660), ("haproxy:unix:{}", 0o600)]
)
@ensureDeferred
async def test_who_may_connect_to_a_unix_socket(address: str, mode: int, tmp_path: Path) -> None:
    """Twisted's own let every user of the machine."""
    path = tmp_path / "door"
    before = os.umask(0)
    service = listener(address.format(path))
    try:
        service.startService()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
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
