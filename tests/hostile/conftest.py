"""The fixtures of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.conftest import serve, start_rtc, start_tunnel, twistd, udp_service
from tests.process.crowd import echo_service
from tests.process.harness import Twistds
from tests.process.services import Tunnel
from tests.process.tls_services import UnderTls
from tests.tls.parts import Authority

__all__ = ["authority", "echo", "serve", "start_rtc", "start_tls", "start_tunnel", "twistd", "udp_service"]


@pytest.fixture
def echo(twistd: Twistds) -> str:
    """The address of a service that echoes."""
    return echo_service(twistd)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A CA, which has given the server a certificate, and a client, ``laptop``, another one."""
    authority = Authority(tmp_path / "pki")
    authority.server()
    authority.client("laptop", file="client")
    return authority


@pytest.fixture
def start_tls(twistd: Twistds, authority: Authority) -> Callable[..., Tunnel]:
    """``start_tls(local, server=[...], client=[...])``: a server and a client that work, under TLS."""
    return UnderTls(twistd, authority.directory).tunnel
