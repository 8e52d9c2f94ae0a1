"""The pages of a web server through the WebRTC tunnel, by the programs with which people look at them."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable

import pytest

from tests.process.harness import Twistds, need
from tests.process.rtc import RtcTunnel
from tests.process.services import Nginx, curl

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


def test_load(twistd: Twistds, start_rtc: StartRtc, nginx: Nginx) -> None:
    """32 connections, or 32 times a new one for each request, without an error."""
    nginx.put("index.html", PAGE)
    tunnel = start_rtc(nginx.address)
    for header in ("Connection: keep-alive", "Connection: close"):
        options = ["--connections=32", "--threads=2", "--duration=3s", "--timeout=60s", f"--header={header}"]
        wrk = twistd.program(need("wrk"), *options, f"{tunnel.url}/")
        assert wrk.wait() == 0, wrk
        print(header, wrk.output)
        done = re.search(r"(\d+) requests in", wrk.output)
        assert done is not None
        assert int(done[1]) > 0, wrk
        # These lines are there only if there is something to complain about.
        assert "Socket errors" not in wrk.output
        assert "Non-2xx" not in wrk.output
        assert curl(f"{tunnel.url}/") == PAGE
