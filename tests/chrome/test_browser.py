"""A page in headless Chromium as a client of the tunnel: signaling, peer connection and channels from a browser."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.chrome.ends import ID, Ends
from tests.patience import PATIENCE
from tests.process.harness import Twistds, need
from tests.process.nginx import Nginx
from tests.process.services import LOOPBACK

CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--log-level=3",
]
PLAIN_CANDIDATES = ["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"]


class Site:
    """Serves ``page.html``, and takes what it reports."""

    def __init__(self) -> None:
        content = Path(__file__).with_name("page.html").read_bytes()
        reports = self.reports = Queue[dict[str, Any]]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self) -> None:
                reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """What the browser asked for is of no interest."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.origin = f"http://{LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def browse(site: Site, ends: Ends, twistd: Twistds) -> Iterator[Callable[..., dict[str, Any]]]:
    """``browse("/a", "/b", flags=[], restart=1)``: what the page reports that gets these through the tunnel."""
    # With a short name, as the browser makes sockets in it; and what it writes at its very end is no matter.
    with TemporaryDirectory(ignore_cleanup_errors=True) as directory:

        def browse(*paths: str, flags: Sequence[str] = (), restart: int = 0) -> dict[str, Any]:
            wanted = [("get", path) for path in paths]
            query = urlencode([("signal", ends.signal), ("id", ID), ("restart", str(restart)), *wanted])
            argv = [need("chromium"), *CHROMIUM, *flags, f"--user-data-dir={directory}/profile"]
            browser = twistd.program(*argv, f"{site.origin}/?{query}", env={"TMPDIR": directory})
            report = site.reports.get(timeout=PATIENCE)
            browser.terminate()
            return report

        yield browse


Browse = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("flags", [(), PLAIN_CANDIDATES], ids=["mdns-candidates", "plain-candidates"])
def test_a_page_fetches_pages_through_our_host(ends: Ends, nginx: Nginx, browse: Browse, flags: Sequence[str]) -> None:
    """With a browser's usual candidates, whose addresses are hidden behind names in ``.local``, and without these."""
    contents = {"/a.html": b"a page behind a tunnel", "/b.bin": random.Random(1).randbytes(2_000_000)}
    for path, content in contents.items():
        nginx.put(path[1:], content)
    ends.start_signaling()
    ends.start_host("ours", nginx.address)
    report = browse(*contents, "/missing", flags=flags)
    assert "pages" in report, report
    *pages, missing = report["pages"]
    assert missing["status"] == "HTTP/1.1 404 Not Found"
    assert pages == [
        {"status": "HTTP/1.1 200 OK", "length": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for content in contents.values()
    ]


def test_a_page_restarts_ice(ends: Ends, nginx: Nginx, browse: Browse) -> None:
    content = random.Random(2).randbytes(20_000_000)
    nginx.put("b.bin", content)
    ends.start_signaling()
    host = ends.start_host("ours", nginx.address)
    report = browse("/b.bin", restart=1)
    assert [page["sha256"] for page in report["pages"]] == [hashlib.sha256(content).hexdigest()]
    found = host.wait_for(r"the path to client '(\S+)' has changed: direct, ")
    assert f"client {found[1]} lost" not in host.output[: found.start()]


def test_an_origin_that_is_allowed(ends: Ends, nginx: Nginx, site: Site, browse: Browse) -> None:
    nginx.put("a.html", b"a page")
    ends.start_signaling(f"--allowed-origins={site.origin}")
    ends.start_host("ours", nginx.address)
    report = browse("/a.html")
    assert [page["length"] for page in report["pages"]] == [len(b"a page")]


def test_an_origin_that_is_not_allowed(ends: Ends, browse: Browse) -> None:
    ends.start_signaling("--allowed-origins=http://elsewhere.example")
    assert browse("/a.html") == {"error": "the WebSocket failed"}
