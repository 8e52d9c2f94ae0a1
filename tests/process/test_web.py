"""What most people want: the pages of a web server, by the programs with which they look at them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest

from tests.process.http_load import Load
from tests.process.nginx import Nginx
from tests.process.services import BOTH_PLANES, Tunnel, curl

PAGE = b"<h1>Hello through the tunnel</h1>\n"
LARGE = random.Random(5).randbytes(5 * 1024 * 1024)

StartTunnel = Callable[..., Tunnel]


def check_pages(tunnel: Tunnel, nginx: Nginx) -> None:
    """A page and a large file, as curl gets them."""
    nginx.put("index.html", PAGE)
    nginx.put("large", LARGE)
    assert curl(f"{tunnel.url}/") == PAGE
    assert hashlib.sha256(curl(f"{tunnel.url}/large")).digest() == hashlib.sha256(LARGE).digest()
    # Several requests on one connection, and the service's own errors.
    both = curl(f"{tunnel.url}/index.html", f"{tunnel.url}/")
    assert both == PAGE + PAGE
    with pytest.raises(AssertionError, match="404"):
        curl(f"{tunnel.url}/nothing-here")


@BOTH_PLANES
def test_pages(start_tunnel: StartTunnel, nginx: Nginx) -> None:
    check_pages(start_tunnel(nginx.address), nginx)


def test_pages_of_an_ipv6_service(start_tunnel: StartTunnel, nginx: Nginx) -> None:
    if not nginx.port6:
        pytest.skip("this machine has no address ::1")
    check_pages(start_tunnel(f"[::1]:{nginx.port6}"), nginx)


@BOTH_PLANES
def test_pages_of_a_unix_socket(start_tunnel: StartTunnel, nginx: Nginx) -> None:
    check_pages(start_tunnel(f"unix:{nginx.socket}"), nginx)


@BOTH_PLANES
@pytest.mark.parametrize("keeps", [True, False])
def test_load(keeps: bool, start_tunnel: StartTunnel, nginx: Nginx) -> None:
    """64 connections, or 64 times a new one for each request, without an error."""
    nginx.put("index.html", PAGE)
    tunnel = start_tunnel(nginx.address)
    with Load(tunnel.public, 64, keeps=keeps) as load:
        load.wait_for(1000)
    assert set(load.answers) == {200}
    assert curl(f"{tunnel.url}/") == PAGE
    for end in (tunnel.server, tunnel.client):
        assert end.terminate() == 0
        assert "Traceback" not in end.output
