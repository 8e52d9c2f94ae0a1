"""A browser's addresses, which it hides behind names in ``.local``, are looked up in its network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

import pytest

from tests.chrome.test_browser import CHROMIUM, Site
from tests.nat.lab import Namespace, need_root
from tests.patience import PATIENCE
from tests.process.harness import Twistds, need, wait_until_open
from tests.process.services import Service, page

SIGNAL_PORT = 8080
BROWSER, HOST = "192.0.2.1", "192.0.2.2"

WALL = """
table ip firewall {
    chain input {
        type filter hook input priority filter
        udp dport 5353 accept
        ct state established,related accept
        meta l4proto udp drop
    }
}
"""
"""The browser's own checks do not come in before the host has found it."""


@pytest.fixture
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    need_root()
    browser, host = Namespace(), Namespace()
    browser.cable("eth0", host, "eth0")
    browser.ip(f"addr add {BROWSER}/24 dev eth0", f"route add default via {HOST}")
    host.ip(f"addr add {HOST}/24 dev eth0")
    host.nft(WALL)
    yield browser, host
    browser.close()
    host.close()


def test_a_page_whose_address_is_hidden(cable: tuple[Namespace, Namespace], twistd: Twistds) -> None:
    there, here = cable
    chromium = need("chromium")
    with here.inside(), closing(Service({"GET": page("found\n")})) as service:
        twistd("rtc-signal", "--addr", f"{HOST}:{SIGNAL_PORT}")
        wait_until_open(SIGNAL_PORT, host=HOST)
        signal = f"ws://{HOST}:{SIGNAL_PORT}"
        options = ("--remote", service.address, "--stun-server", "", "--log-level", "debug")
        host = twistd("rtc-host", "--id", "myhost", "--signal", signal, *options)
        host.wait_for(r"host 'myhost' offers tcp ")
        with TemporaryDirectory(ignore_cleanup_errors=True) as directory, there.inside():
            site = Site()
            query = urlencode([("signal", signal), ("id", "myhost"), ("get", "/")])
            argv = [chromium, *CHROMIUM, f"--user-data-dir={directory}/profile", f"{site.origin}/?{query}"]
            browser = twistd.program(*argv, env={"TMPDIR": directory})
            report = site.reports.get(timeout=PATIENCE)
            browser.terminate()
            site.close()
    assert [shown["status"] for shown in report.get("pages", [])] == ["HTTP/1.1 200 OK"], report
    assert host.wait_for(r"\.local is (.*)$")[1] == BROWSER
