"""The page of the status port in headless Chromium, with real processes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chrome.devtools import Page
from tests.ports import free_port
from tests.process.conftest import start_rtc, start_tunnel
from tests.process.harness import wait_until_open
from tests.process.rtc import RtcTunnel
from tests.process.services import LOOPBACK, Service, Tunnel, fetch, page as answer

__all__ = ["start_rtc", "start_tunnel"]

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]
StartRtc = Callable[..., RtcTunnel]

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "\u202etxt.exe\u2066 مرحبا",
    "x" * 20_000,
    "🚇" * 300,
    "a" + "\u0301" * 300,
    "__proto__",
    "'\";--><svg onload=alert(3)>",
]


@pytest.fixture
def browser() -> Iterator[Page]:
    """A page, which must not have complained."""
    # With a short name, as the browser makes sockets in it; and what it writes at its very end is no matter.
    with TemporaryDirectory(ignore_cleanup_errors=True) as directory, Page(Path(directory)) as page:
        yield page
        assert page.complaints == []


def status_port() -> tuple[int, str]:
    port = free_port()
    return port, f"--status-listen={LOOPBACK}:{port}"


def show(browser: Page, port: int) -> None:
    """Open the page of a status port, and wait until it shows something."""
    wait_until_open(port)
    browser.open(f"http://{LOOPBACK}:{port}/")
    browser.wait("document.querySelector('#state')?.textContent.match(/All is well|problem/)")


def test_a_client_comes_and_goes(serve: Serve, start_tunnel: StartTunnel, browser: Page) -> None:
    port, option = status_port()
    service = serve(GET=answer("here"), HOLD=lambda connection, *_: connection.recv(1))
    tunnel = start_tunnel(service.address, server=[option])
    show(browser, port)
    browser.wait(f"document.querySelector('#right').innerText.includes('port {tunnel.public}')")
    assert service.address in browser.text
    with tunnel.visit(b"HOLD"):
        browser.wait("document.querySelector('#left').innerText.includes('1 now')")
        browser.wait("document.querySelector('#lines .busy')")
    browser.wait("document.querySelector('#left').innerText.includes('0 now')")
    # "HOLD" and the end of the line have come; nothing went out.
    row = "[...document.querySelectorAll('#tables tbody tr')].map((row) => row.innerText.replace(/\\s+/g, ' '))[0]"
    browser.wait(f"{row}.endsWith('published 0 1 5 B')")
    tunnel.client.kill()
    browser.wait("document.querySelector('#right').innerText.includes('No client is connected')")
    after = len(tunnel.server.output)
    tunnel.start_client()
    tunnel.wait_for_client()
    browser.wait(f"document.querySelector('#right').innerText.includes('port {tunnel.public}')")
    assert "published" in browser.js("document.querySelector('#tables').innerText")
    assert len(tunnel.server.output) >= after
    assert browser.complaints == []
    # The process ends: the page says so, and keeps what there was. What the browser says about it is no complaint.
    tunnel.server.kill()
    browser.wait("document.querySelector('#state').textContent.includes('does not answer')")
    assert f"port {tunnel.public}" in browser.text
    tunnel.start_server()
    browser.wait("document.querySelector('#state').textContent.match(/All is well|problem/)")
    assert all("ERR_" in each for each in browser.complaints)
    browser.complaints.clear()


def test_the_client_says_what_is_wrong(serve: Serve, start_tunnel: StartTunnel, browser: Page) -> None:
    port, option = status_port()
    service = serve(GET=answer("here"))
    tunnel = start_tunnel(service.address, client=[option])
    show(browser, port)
    assert browser.js("document.querySelector('#state').textContent") == "All is well"
    assert browser.js("document.title") == "rtunnel-client"
    tunnel.server.kill()
    browser.wait("document.title.startsWith('(1)')")
    assert f"there is no link to {LOOPBACK}:{tunnel.control}" in browser.text
    assert "not connected" in browser.js("document.querySelector('#left').innerText")
    browser.wait("document.querySelector('#warnings').innerText.includes('lost')")


def test_the_webrtc_tunnel(serve: Serve, start_rtc: StartRtc, browser: Page) -> None:
    service = serve(GET=answer("here"))
    (host_port, host), (client_port, client), (signal_port, signal) = (status_port() for _ in range(3))
    tunnel = start_rtc(service.address, host=[host], client=[client], signal=[signal])
    show(browser, host_port)
    browser.wait("document.querySelector('#left').innerText.includes('direct, ')")
    assert service.address in browser.js("document.querySelector('#right').innerText")
    assert "signaling" in browser.js("document.querySelector('#middle').innerText")
    assert fetch(tunnel.local) == "here"
    browser.wait("document.querySelector('#tables').innerText.match(/\\d ms\\s+\\d+ kB\\s+\\d+ kB/)")
    assert "X25519MLKEM768, ML-DSA-65, " in browser.js("document.querySelector('#tables').innerText")
    browser.js("last.peers[0].lost_lately = 0.0123; take(last)")
    assert "1.2% lost" in browser.js("document.querySelector('#tables').innerText")
    show(browser, client_port)
    browser.wait("document.querySelector('#right').innerText.includes('direct, ')")
    assert f"{LOOPBACK}:{tunnel.local}" in browser.js("document.querySelector('#left').innerText")
    show(browser, signal_port)
    browser.wait("document.querySelector('#right').innerText.includes('1 host')")
    browser.wait("document.querySelector('#left').innerText.includes('1 client')")


def test_a_token(serve: Serve, start_tunnel: StartTunnel, browser: Page) -> None:
    """A browser asks for it, and sends it for the events too."""
    port, option = status_port()
    start_tunnel(serve(GET=answer("here")).address, client=[option, "--status-token=s3cret"])
    wait_until_open(port)
    browser.open(f"http://any:s3cret@{LOOPBACK}:{port}/")
    browser.wait("document.querySelector('#state')?.textContent === 'All is well'")


def test_hostile_names(start_tunnel: StartTunnel, browser: Page) -> None:
    """They come from a client, and are shown as they are; a browser makes nothing of them."""
    port, option = status_port()
    start_tunnel("unix:/nowhere/<img><b>bold</b>", server=[option], client=["--check-services=no"])
    show(browser, port)
    browser.wait("document.querySelector('#right').innerText.includes('<img><b>bold</b>')")
    # All other names too, as if the server did not look at them.
    names = json.dumps(HOSTILE)
    browser.js(
        f"""{{
            const names = {names}, [client] = last.clients, [tunnel] = client.tunnels;
            last.clients = names.map((name) => ({{...client, name, address: name, agent: name, tls: {{group: name}},
                tunnels: names.map((other) => ({{...tunnel, place: other, service: name, group: name}}))}}));
            last.problems = names;
            last.listening = {{[names[0]]: names[1]}};
            last.warnings = names.map((text) => ({{at: 0, level: "warn", text}}));
            take(last);
            // What the server says next would take the place of these.
            take = () => undefined;
        }}"""
    )
    text = browser.text
    for name in HOSTILE[:3]:
        assert name in text
    assert browser.js("document.querySelectorAll('main img, main script, main svg svg, #tables svg').length") == 0
    for width in (1280, 375):
        browser.resize(width, 800)
        assert browser.js("document.documentElement.scrollWidth") <= width
    # What is looked for may be hostile too.
    for name in HOSTILE:
        browser.js(f"find({json.dumps(name)})")
    browser.js("find('')")


@pytest.fixture
def thousand(start_tunnel: StartTunnel, browser: Page) -> Page:
    """The page of a server with a client with 1,000 tunnels."""
    port, option = status_port()
    names = [f"--publish=http:h{number}.example.org={LOOPBACK}:9" for number in range(999)]
    start_tunnel(
        f"{LOOPBACK}:9",
        server=[option, f"--http-listen={LOOPBACK}:{free_port()}"],
        client=["--check-services=no", *names],
    )
    show(browser, port)
    browser.wait("document.querySelector('#tables').innerText.includes('1,000')")
    return browser


def test_1000_tunnels(thousand: Page) -> None:
    rows = "document.querySelectorAll('#tables table:first-child tbody tr').length"
    leaves = "document.querySelectorAll('#right .leaf').length"
    assert thousand.js(rows) == 50
    assert thousand.js(leaves) == 12
    assert "and 988 more tunnels" in thousand.text
    assert thousand.js("document.querySelectorAll('*').length") < 2000
    thousand.js("document.querySelector('#find').focus()")
    for letter in "h77":
        thousand.press(letter, letter)
    assert thousand.js(rows) == 11
    assert thousand.js("document.querySelector('#found').textContent") == "11 tunnels of 1,000"
    assert "h77.example.org" in thousand.js("document.querySelector('#right').innerText")
    thousand.press("Escape")
    assert thousand.js(rows) == 50
    thousand.js("document.querySelector('#wrong').click()")
    thousand.wait("document.querySelector('#right').innerText.includes('Nothing is found')")
    thousand.js("document.querySelector('#wrong').click()")
    for shown in (250, 450, 650, 850, 1000):
        thousand.js("document.querySelector('#tables .show').click()")
        assert thousand.js(rows) == shown
    took = thousand.js(
        "(() => { const since = performance.now(); for (let n = 0; n < 10; n++) render();"
        " return (performance.now() - since) / 10; })()"
    )
    print(f"{took:.1f} ms to show 1,000 rows again")
    assert took < 5000  # a bound on what never ends, as the machine may be busy


def test_by_keyboard(thousand: Page) -> None:
    here = """(() => { const e = document.activeElement;
        return e.id || e.className || e.tagName.toLowerCase(); })()"""
    seen = []
    for _ in range(5):
        thousand.press("Tab")
        seen.append(thousand.js(here))
    assert seen == ["skip", "find", "wrong", "box", "show"]
    # A client in the picture looks for its tunnels.
    thousand.js("document.querySelector('button.box').focus()")
    thousand.press("Enter")
    assert thousand.js("document.querySelector('#find').value") == thousand.js("last.clients[0].name")
    assert thousand.js("document.activeElement.getAttribute('aria-pressed')") == "true"
    # It keeps the focus while the page goes on.
    before = thousand.js("heardAt")
    thousand.wait(f"heardAt > {before}")
    assert thousand.js(here) == "box"
    thousand.press(" ")
    assert thousand.js("document.querySelector('#find').value") == ""
    thousand.js("document.querySelector('.skip').focus()")
    thousand.press("Enter")
    assert thousand.js(here) == "tables"


def test_tables_say_all_of_it(thousand: Page) -> None:
    """To whoever cannot see the picture."""
    nodes = thousand("Accessibility.getFullAXTree")["nodes"]
    found = [(each["role"]["value"], each.get("name", {}).get("value", "")) for each in nodes if "role" in each]
    assert ("heading", "rtunnel-server") in found
    assert [name for role, name in found if role == "table"] == ["Tunnels 1,000", "Clients 1"]
    columns = [name for role, name in found if role == "columnheader"]
    # None is in a group.
    assert columns[:5] == ["Tunnel", "Client", "Service", "State", "Visitors"]
    assert ("rowheader", "http://h0.example.org") in [(role, re.sub(r":\d+$", "", name)) for role, name in found]
    assert not [role for role, name in found if role in ("button", "searchbox", "checkbox") and not name]


def test_a_page_that_is_open_for_a_day(serve: Serve, start_tunnel: StartTunnel, browser: Page) -> None:
    """With clients who come and go all the time."""
    port, option = status_port()
    start_tunnel(serve(GET=answer("here")).address, server=[option])
    show(browser, port)
    browser.js(
        """
        var now = last.up_seconds, number = 0;
        function pass(seconds, step) {
            const [client] = last.clients;
            for (let n = 0; n < seconds; n += step) {
                now += step;
                number += 1;
                const clients = Array.from({length: 3}, (_, nth) => ({
                    ...client, name: `client ${number + nth}`, address: `address ${number + nth}`,
                }));
                const warnings = [{at: now, level: "warn", text: `warning ${number}`}];
                take({...last, up_seconds: now, clients, warnings, visitors: number % 7, visitors_total: number});
            }
            return document.querySelectorAll("*").length;
        }
        """
    )

    def heap() -> float:
        browser("HeapProfiler.collectGarbage")
        used: float = browser("Runtime.getHeapUsage")["usedSize"]
        return used

    browser.js("pass(400, 1)")
    nodes, used = browser.js("pass(100, 1)"), heap()
    # An update each four minutes: more than there are samples and warnings.
    assert browser.js("pass(86400, 240)") == nodes
    browser.js("pass(400, 1)")
    assert browser.js("samples.length") <= 302
    assert heap() - used < 1_000_000
    assert browser.js("limits.size") == 0
