"""What the tests of groups have in common."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from rtunnel.addresses import ListenAddress
from rtunnel.reverse.server import take_over
from rtunnel.reverse.server.service import TunnelServer

if TYPE_CHECKING:
    from tests.reverse.world import World


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder is never taken for dead because the machine is busy."""
    monkeypatch.setattr(take_over, "TAKE_OVER_AFTER", 1000.0)
    monkeypatch.setattr(take_over, "TAKE_OVER_POLL", 0.01)


@pytest.fixture
def hasty(_patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder is soon taken for dead."""
    monkeypatch.setattr(take_over, "TAKE_OVER_AFTER", 0.3)


@pytest.fixture
def server(world: World) -> TunnelServer:
    local = ListenAddress.parse("127.0.0.1:0")
    return world.server(http_listen=local, https_listen=local, hold=0, trusted_proxies=(ip_network("127.0.0.1/32"),))
