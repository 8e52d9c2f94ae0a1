"""The pages of a web server through the WebRTC tunnel, by the programs with which people look at them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest

from tests.process.http_load import Load
from tests.process.nginx import Nginx
from tests.process.rtc import RtcTunnel
from tests.process.services import curl

PAGE = b"<h1>Hello through WebRTC</h1>\n"
LARGE = random.Random(5).randbytes(2 * 1024 * 1024)

StartRtc = Callable[..., RtcTunnel]


def test_pages(start_rtc: StartRtc, nginx: Nginx) -> None:
    nginx.put("index.html", PAGE)
    nginx.put("large", LARGE)
    tunnel = start_rtc(nginx.address)
    assert curl(f"{tunnel.url}/") == PAGE
    assert hashlib.sha256(curl(f"{tunnel.url}/large")).digest() == hashlib.sha256(LARGE).digest()
    # Several requests on one connection, and the service's own errors.
    assert curl(f"{tunnel.url}/index.html", f"{tunnel.url}/") == PAGE + PAGE
    with pytest.raises(AssertionError, match="404"):
        curl(f"{tunnel.url}/nothing-here")


def test_load(start_rtc: StartRtc, nginx: Nginx) -> None:
    """32 connections, or 32 times a new one for each request, without an error."""
    nginx.put("index.html", PAGE)
    tunnel = start_rtc(nginx.address)
    for keeps in (True, False):
        with Load(tunnel.local, 32, keeps=keeps) as load:
            load.wait_for(500)
        assert set(load.answers) == {200}
        assert curl(f"{tunnel.url}/") == PAGE
