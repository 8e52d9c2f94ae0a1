"""The CA comes by HTTP: what it finds while an order lasts, and what others find beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.access.rules import read_rules
from rtunnel.acme import authority
from rtunnel.acme.authority import Obtained, OrderFailed
from rtunnel.acme.settings import HTTP_01, TLS_ALPN_01, AcmeSettings
from rtunnel.acme.state import State
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.errors import ConfigError
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.patience import PATIENCE
from tests.reverse.net import BOTH_PLANES, HOST, Peer, reactor, until
from tests.reverse.world import World, port_of

NAME = "app.example.org"
TOKEN = "t" * 43
SHOWN = f"{TOKEN}.thumbprint"
PLACE = f"http://{NAME}"
LOCAL = ListenAddress.parse(f"{HOST}:0")


class Ca:
    """Takes its time, and gives no certificate."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ends = threading.Event()

    def obtain(self, settings: AcmeSettings, state: State, name: str, answers: Any) -> Obtained:
        self.asked.append(settings.challenge)
        answers.show(SHOWN)
        self.ends.wait(PATIENCE)
        raise OrderFailed("that is all")


@pytest.fixture
def ca(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ca]:
    found = Ca()
    monkeypatch.setattr(authority, "obtain", found.obtain)
    yield found
    found.ends.set()


def auto(**rules: object) -> TunnelSettings:
    own = read_rules(rules, "https")
    return TunnelSettings(0, DialAddress.parse(f"{HOST}:1"), protocol="https", host=NAME, tls="auto", rules=own)


def by_http(local: int, path: str = "", **rules: object) -> TunnelSettings:
    own = read_rules(rules, "http")
    return TunnelSettings(0, DialAddress.parse(f"{HOST}:{local}"), protocol="http", host=NAME, path=path, rules=own)


def acme(directory: Path, challenge: str = HTTP_01) -> AcmeSettings:
    return AcmeSettings("a@b", directory, "https://ca.test/dir", challenge=challenge)


def start(world: World, server: TunnelServer, ca: AcmeSettings, *tunnels: TunnelSettings) -> TunnelClient:
    where = DialAddress.parse(f"{HOST}:{world.control_port(server)}")
    settings = ClientSettings(where, tunnels, data_plane=world.plane, drain=5.0, check_services=False, acme=ca)
    client: TunnelClient = world.start(TunnelClient(reactor, settings))
    return client


async def ask(world: World, server: TunnelServer, path: str = f"/.well-known/acme-challenge/{TOKEN}") -> Peer:
    """The answer of the HTTP port to a request over a connection of its own."""
    visitor = await world.visitor(port_of(server.named.listeners["http"]))
    visitor.send(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
    await visitor.ends()
    return visitor


@BOTH_PLANES
@ensureDeferred
async def test_an_order(world: World, ca: Ca, tmp_path: Path) -> None:
    """Beside it, visitors of the operator's own tunnel are redirected to https:, and not the CA."""
    server = world.server(http_listen=LOCAL, https_listen=LOCAL)
    own = by_http(1, redirect_https=True, deny=["127.0.0.0/8"])
    start(world, server, acme(tmp_path), own, auto(deny=["127.0.0.0/8"]))
    await world.logged(
        f"{NAME}:{port_of(server.named.listeners['http'])}/.well-known/acme-challenge is published: a CA"
    )
    await until(lambda: ca.asked, "an order")
    seen = (await ask(world, server)).received
    assert seen.startswith(b"HTTP/1.1 200 ")
    assert b"Content-Type: application/octet-stream" in seen
    assert seen.endswith(f"\r\n\r\n{SHOWN}".encode())
    assert (await ask(world, server, "/")).received.startswith(b"HTTP/1.1 301 ")
    assert (await ask(world, server, "/.well-known/acme-challenge/other")).received.startswith(b"HTTP/1.1 404 ")
    ca.ends.set()
    await world.logged(f"{NAME}: no new certificate, visitors are turned away: ca.test: that is all; next attempt")
    assert (await ask(world, server)).received.startswith(b"HTTP/1.1 404 ")
    assert ca.asked == [HTTP_01]


@ensureDeferred
async def test_a_server_without_an_http_port(world: World, ca: Ca, tmp_path: Path) -> None:
    server = world.server(https_listen=LOCAL)
    client = start(world, server, acme(tmp_path), auto())
    await world.logged(
        f"{PLACE}/.well-known/acme-challenge refused by the server: not-supported: the server has no HTTP port "
        "(--http-listen); next attempt in"
    )
    assert world.lines("let the server have --http-listen :80, or give this client --acme-challenge tls-alpn-01")
    await world.logged(f"https://{NAME}:")
    orders = client.link.tls_hosts._orders
    assert orders is not None
    orders.tick()
    assert not ca.asked


@ensureDeferred
async def test_the_challenge_changes_while_the_client_runs(world: World, ca: Ca, tmp_path: Path) -> None:
    ca.ends.set()
    server = world.server(http_listen=LOCAL, https_listen=LOCAL)
    own = auto()
    client = start(world, server, acme(tmp_path / "1", TLS_ALPN_01), own)
    await until(lambda: ca.asked == [TLS_ALPN_01], "an order")
    assert (await ask(world, server)).received.startswith(b"HTTP/1.1 301 ")
    await client.apply([own], acme(tmp_path / "2"))
    await until(lambda: ca.asked == [TLS_ALPN_01, HTTP_01], "another order")
    assert (await ask(world, server)).received.startswith(b"HTTP/1.1 404 ")
    await client.apply([own], acme(tmp_path / "3", TLS_ALPN_01))
    await until(lambda: ca.asked == [TLS_ALPN_01, HTTP_01, TLS_ALPN_01], "the former kind of order")
    await world.logged(f"{PLACE}/.well-known/acme-challenge: given up")
    assert [each.settings for each in client.link.wanted] == [own]


@ensureDeferred
async def test_names_come_and_go(world: World, ca: Ca, tmp_path: Path) -> None:
    server = world.server(http_listen=LOCAL, https_listen=LOCAL)
    client = start(world, server, acme(tmp_path), by_http(1))
    assert len(client.link.wanted) == 1
    with pytest.raises(ConfigError, match=r"^http:app.example.org/.well-known/acme-challenge is where the client answ"):
        await client.apply([auto(), by_http(1, "/.well-known/acme-challenge")])
    assert [each.settings for each in client.link.wanted] == [by_http(1)]
    await client.apply([auto(), by_http(1)])
    await until(lambda: ca.asked, "an order")
    assert (await ask(world, server)).received.endswith(SHOWN.encode())
    await client.apply([by_http(1)])
    await until(lambda: len(server.names) == 1, "two of three are gone")
    assert (await ask(world, server)).received.startswith(b"HTTP/1.1 502 ")


@BOTH_PLANES
@ensureDeferred
async def test_a_group(world: World, ca: Ca, tmp_path: Path) -> None:
    """Whomever of its members the CA would reach, it gets the answer of the one that has the order."""
    server = world.server(http_listen=LOCAL, https_listen=LOCAL)
    group = {"group": "web", "group-key": "0123456789abcdef"}
    start(world, server, acme(tmp_path / "1"), auto(**group))
    await until(lambda: ca.asked, "an order")
    other = start(world, server, acme(tmp_path / "2"), auto(**group))
    # It has no order yet, as if it were its turn later.
    assert other.link.tls_hosts._orders is not None
    other.link.tls_hosts._orders.stop()
    other.link.tls_hosts._orders = None
    await until(lambda: len(server.names) == 4, "both are there")
    for _ in range(6):
        assert (await ask(world, server)).received.endswith(SHOWN.encode())
    assert not world.lines("cannot be reached", LogLevel.warn)
