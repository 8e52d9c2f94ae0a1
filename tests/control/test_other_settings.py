"""The status port takes other settings while the process runs."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from rtunnel.addresses import ListenAddress
from rtunnel.control.service import ControlService
from rtunnel.control.settings import StatusSettings
from rtunnel.errors import ConfigError, StartupError
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import can_bind

HOST = "127.0.0.1"


def settings(port: int, token: str | None = None, cert: Path | None = None, host: str = HOST) -> StatusSettings:
    return StatusSettings(ListenAddress.parse(f"{host}:{port}"), token, cert, cert)


def ask(port: int, token: str = "") -> Deferred[int]:
    """The status of the answer to a request."""

    def request() -> int:
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
        try:
            connection.request("GET", "/healthz", headers={"Authorization": f"Bearer {token}"})
            return connection.getresponse().status
        finally:
            connection.close()

    return deferToThread(request)


@pytest.fixture
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlService]:
    environ = {"RUNTIME_DIRECTORY": str(tmp_path_factory.mktemp("c"))}
    control = ControlService(
        reactor, "rtunnel-test", lambda: {"problems": [], "ready": True}, StatusSettings(), {}, environ
    )
    control.privilegedStartService()
    control.startService()
    yield control
    pytest_twisted.blockon(control.stopService())


@ensureDeferred
async def test_it_comes_moves_and_goes(control: ControlService) -> None:
    one, other = free_port(), free_port()
    await control.use(settings(one))
    assert await ask(one) == 200
    await control.use(settings(other))
    assert await ask(other) == 200
    assert can_bind(one)
    await control.use(StatusSettings())
    assert can_bind(other)


@ensureDeferred
async def test_another_token(control: ControlService) -> None:
    port = free_port()
    await control.use(settings(port, "one-word"))
    assert [await ask(port, token) for token in ("one-word", "another")] == [200, 401]
    await control.use(settings(port, "another"))
    assert [await ask(port, token) for token in ("one-word", "another")] == [401, 200]


@ensureDeferred
async def test_other_addresses_of_its_own_number(control: ControlService) -> None:
    """It is in the way of itself."""
    port = free_port()
    await control.use(settings(port))
    await control.use(settings(port, "one-word", host=""))
    assert [await ask(port, token) for token in ("one-word", "")] == [200, 401]
    await control.use(settings(port))
    assert await ask(port) == 200


@ensureDeferred
async def test_somebody_else_is_among_the_other_addresses(control: ControlService) -> None:
    port = free_port()
    await control.use(settings(port))
    with socket.create_server(("127.0.0.2", port)), pytest.raises(StartupError, match="status port"):
        await control.use(settings(port, host=""))
    assert await ask(port) == 200


@ensureDeferred
async def test_where_somebody_else_is(control: ControlService) -> None:
    port, taken = free_port(), free_port()
    await control.use(settings(port))
    other = await ListenAddress.parse(f"{HOST}:{taken}").endpoint(reactor).listen(control._port.factory)  # type: ignore[union-attr]
    with pytest.raises(StartupError, match="status port"):
        await control.use(settings(taken))
    assert await ask(port) == 200
    await other.stopListening()  # type: ignore[misc]


@ensureDeferred
async def test_a_certificate_that_cannot_be_used(control: ControlService, tmp_path: Path) -> None:
    """At the same address, so that the port had to go first."""
    port = free_port()
    await control.use(settings(port, "one-word"))
    with pytest.raises(ConfigError, match="cannot be read"):
        await control.use(settings(port, "one-word", tmp_path / "missing.pem"))
    assert await ask(port, "one-word") == 200
    await control.use(settings(port, "another"))
    assert await ask(port, "another") == 200
