"""Host names at the server: who has which, and which tunnel a visitor gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.rules import read_rules
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.options.settings.published import published
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server import take_over
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.ports import free_port
from tests.reverse.net import ERROR, HOST, INIT, PING, PONG, READY, RawLink, reactor, turns, until
from tests.reverse.world import World, port_of

CAPABILITIES = ["withdraw", "hosts", "rules"]
DENIED = read_rules({"deny": "192.0.2.7"})
LOCAL = ListenAddress.parse(f"{HOST}:0")


@pytest.fixture
def server(world: World, monkeypatch: pytest.MonkeyPatch) -> TunnelServer:
    monkeypatch.setattr(take_over, "TAKE_OVER_AFTER", 1000.0)
    monkeypatch.setattr(take_over, "TAKE_OVER_POLL", 0.01)
    return world.server(http_listen=LOCAL, https_listen=LOCAL, hold=0)


@pytest.fixture
def hasty(server: TunnelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder is soon taken for dead."""
    monkeypatch.setattr(take_over, "TAKE_OVER_AFTER", 0.3)


async def client(world: World, server: TunnelServer, *names: str, **values: Any) -> RawLink:
    """A client that has these names, each in a tunnel of its own."""
    link = await world.raw_extended(server, capabilities=CAPABILITIES, **values)
    for number, name in enumerate(names):
        await publish(link, number, name)
    return link


def ask(link: RawLink, number: int, name: str, **rules: object) -> None:
    second = f"\n{json.dumps(rules)}" if rules else ""
    link.put(INIT, number, f"{name}:local{second}".encode())


async def publish(link: RawLink, number: int, name: str) -> str:
    """Publish a name; return its URL."""
    ask(link, number, name)
    address: str = (await link.take_json(READY, number))["address"]
    return address


async def refusal(link: RawLink, number: int, name: str, **rules: object) -> tuple[str, str]:
    """Ask for a name in vain; return the code and the text."""
    ask(link, number, name, **rules)
    error = await link.take_json(ERROR, number)
    return error["code"], error["message"]


def only(group: Group | None) -> Backend:
    assert group is not None
    (backend,) = group
    return backend


def tunnel(group: Group | None) -> int | None:
    return only(group).number if group is not None else None


# What is published


@ensureDeferred
async def test_urls(world: World, server: TunnelServer) -> None:
    link = await client(world, server)
    http, https = (server.named.port_of(protocol) for protocol in ("http", "https"))
    assert http.startswith(":")
    assert await publish(link, 0, "http/app.example.org/api") == f"http://app.example.org{http}/api"
    assert await publish(link, 1, "https/*.dev.example.org") == f"https://*.dev.example.org{https}"
    assert len(server.names) == 2


@ensureDeferred
async def test_a_server_without_such_ports(world: World) -> None:
    link = await client(world, world.server(http_listen=LOCAL))
    code, text = await refusal(link, 0, "https/app.example.org")
    assert (code, text) == ("not-supported", "the server has no HTTPS port (--https-listen)")
    await publish(link, 0, "http/app.example.org")


@pytest.mark.parametrize(
    "name",
    ["*.", "a..b", "-a", "192.0.2.1", ".", "a.", "a" * 64, "a/../b", "a/%61", "a/%2f"],
)
@ensureDeferred
async def test_what_is_no_name(world: World, server: TunnelServer, name: str) -> None:
    link = await client(world, server)
    code, _ = await refusal(link, 0, f"http/{name}")
    assert code == "bad-request"
    assert not server.names
    await link.is_alive()


@ensureDeferred
async def test_every_name_there_is(world: World, server: TunnelServer) -> None:
    code, text = await refusal(await client(world, server), 0, "http/*")
    assert (code, text) == ("bad-request", "INIT says '*' where a host name belongs")


@ensureDeferred
async def test_rules_that_are_none(world: World, server: TunnelServer) -> None:
    link = await world.raw_extended(server, capabilities=[*CAPABILITIES, "rules"])
    for name, rules, text in (
        ("http/app", {"allow": "10.0.0.1/8"}, "key 'allow': '10.0.0.1/8' is not a network; write 10.0.0.0/8"),
        ("http/app", {"speed": 1}, "unknown key 'speed'"),
        ("https/app", {"redirect-https": True}, "key 'redirect-https': is about requests, which"),
    ):
        code, said = await refusal(link, 0, name, **rules)
        assert code == "bad-request"
        assert said.startswith(text)
    assert not server.names
    ask(link, 0, "http/app", deny="192.0.2.7")
    await link.take(READY, 0)
    found = server.names.http("app", "/")
    assert found is not None
    assert [str(each) for each in found.rules.deny] == ["192.0.2.7/32"]


# Whom a visitor gets


@ensureDeferred
async def test_the_longest_match_comes_first(world: World, server: TunnelServer) -> None:
    names = ("*.example.org", "*.dev.example.org", "a.dev.example.org", "*.a.dev.example.org")
    await client(world, server, *(f"https/{name}" for name in names))
    for host, number in {
        "x.example.org": 0,
        "X.Example.ORG.": 0,
        "dev.example.org": 0,
        "b.dev.example.org": 1,
        "c.b.dev.example.org": 1,
        "a.dev.example.org": 2,
        "b.a.dev.example.org": 3,
        "example.org": None,
        "example.net": None,
        "*.example.org": None,
        "": None,
        "192.0.2.1": None,
        "a b.example.org": None,
        ".example.org": None,
    }.items():
        assert tunnel(server.names.https(host)) == number, host
        assert server.names.http(host, "/") is None


@ensureDeferred
async def test_paths_end_where_segments_do(world: World, server: TunnelServer) -> None:
    await client(world, server, "http/app", "http/app/api", "http/app/api/v2", "http/other/api")
    for path, number in {
        "/": 0,
        "": 0,
        "*": 0,
        "/x": 0,
        "/apix": 0,
        "/API": 0,
        "/api%2Fx": 0,
        "/api": 1,
        "/api/": 1,
        "/api/v22": 1,
        "/%61pi": 1,
        "/x/../api": 1,
        "/x/%2e%2E/api/": 1,
        "/api/v2": 2,
        "/api/v2/x": 2,
        "/api/v2/../v3": 1,
        "/api/v2/../..": 0,
    }.items():
        assert tunnel(server.names.http("app", path)) == number, path
    assert tunnel(server.names.http("other", "/api/x")) == 3
    assert server.names.http("other", "/x") is None


# Who has a name


@ensureDeferred
async def test_a_name_has_one_client_for_both_protocols(world: World, server: TunnelServer) -> None:
    holder = await client(world, server, "http/app/api")
    other = await client(world, server)
    await other.take(PING)
    for name in ("http/app/api", "http/app", "http/app/x", "https/app"):
        ask(other, 0, name)
        while not other.frames:
            holder.put(PONG, 0, b"whatever")
            await turns()
        error = await other.take_json(ERROR, 0)
        assert (error["code"], error["message"]) == ("host-in-use", "app is served by another client")
    await publish(holder, 1, "https/app")
    await publish(holder, 2, "http/app")
    await publish(other, 0, "http/www.app")
    assert len(server.names) == 4


@ensureDeferred
async def test_a_name_that_the_client_has(world: World, server: TunnelServer) -> None:
    link = await client(world, server, "http/app/api", "https/app")
    assert await refusal(link, 2, "http/app/api") == ("host-in-use", "this client serves http://app/api already")
    assert await refusal(link, 2, "https/app") == ("host-in-use", "this client serves https://app already")


@ensureDeferred
async def test_a_name_below_somebody_elses(world: World, server: TunnelServer) -> None:
    await client(world, server, "http/*.dev")
    await client(world, server, "http/a.dev")
    first, second = server.names.http("b.dev", "/"), server.names.http("a.dev", "/")
    assert only(first).session is not only(second).session


@ensureDeferred
async def test_a_name_is_free_when_its_last_tunnel_is_withdrawn(world: World, server: TunnelServer) -> None:
    holder = await client(world, server, "http/app", "https/app")
    withdrawal = b'{"scope": "tunnel", "code": "shutting-down", "message": ""}'
    holder.put(ERROR, 0, withdrawal)
    await holder.is_alive()
    assert server.names.http("app", "/") is None
    assert tunnel(server.names.https("app")) == 1
    holder.put(ERROR, 1, withdrawal)
    await holder.is_alive()
    assert not server.names
    await client(world, server, "http/app")


@ensureDeferred
async def test_a_name_is_free_when_its_client_goes(world: World, server: TunnelServer) -> None:
    holder = await client(world, server, "http/app", "https/*.app")
    holder.abort()
    await until(lambda: not server.names)
    await client(world, server, "https/app")
    assert len(server.names) == 1


@ensureDeferred
async def test_the_same_client_takes_its_name_at_once(world: World, server: TunnelServer) -> None:
    session = "0123456789abcdef" * 2
    old = await client(world, server, "http/app", session=session)
    await client(world, server, "http/app", session=session)
    assert (await old.take_json(ERROR, 0))["code"] == "taken-over"
    await world.sessions(server, 1)
    assert server.names.http("app", "/") is not None


@pytest.mark.usefixtures("hasty")
@ensureDeferred
async def test_another_client_gets_the_name_of_a_dead_holder(world: World, server: TunnelServer) -> None:
    dead = await client(world, server, "http/app", "https/app", "http/other")
    other = await client(world, server, "https/app")
    error = await dead.take_json(ERROR, 0)
    assert (error["scope"], error["code"]) == ("link", "taken-over")
    assert other.name not in error["message"]
    assert not server.names.http("app", "/")  # nobody serves it
    assert tunnel(server.names.https("app")) == 0
    assert len(server.names) == 1


@pytest.mark.usefixtures("hasty")
@ensureDeferred
async def test_two_clients_for_the_name_of_a_dead_holder(world: World, server: TunnelServer) -> None:
    await client(world, server, "http/app")
    others = [await client(world, server) for _ in range(2)]
    for other in others:
        ask(other, 0, "http/app")
    await until(lambda: all({READY, ERROR} & set(other.seen) for other in others), "two answers")
    (loser,) = [other for other in others if ERROR in other.seen]
    assert (await loser.take_json(ERROR, 0))["code"] == "host-in-use"
    assert len(server.names) == 1


@ensureDeferred
async def test_a_claimant_that_gives_up_while_the_holder_is_asked(world: World, server: TunnelServer) -> None:
    holder = await client(world, server, "http/app")
    other = await client(world, server)
    ask(other, 0, "http/app")
    await holder.take(PING)
    other.put(ERROR, 0, b'{"scope": "tunnel", "code": "shutting-down", "message": ""}')
    await world.logged("http://app withdrawn")
    holder.abort()
    await until(lambda: not server.names)
    await turns(50)
    await other.is_alive()
    assert READY not in other.seen
    assert not server.names


# Rights


@ensureDeferred
async def test_a_name_that_the_clients_file_does_not_allow(world: World, tmp_path: Path) -> None:
    path = tmp_path / "clients.yaml"
    path.write_text('"*": {hosts: "*.dev"}')
    server = world.server(http_listen=LOCAL, admission=AdmissionSettings(path))
    link = await client(world, server, "http/a.dev", "http/*.dev")
    assert await refusal(link, 2, "http/app") == (
        "host-not-allowed",
        "app is not among the host names of this client: *.dev",
    )
    path.write_text('"*": {hosts: a.dev}')
    assert (await link.take_json(ERROR, 1))["code"] == "host-not-allowed"
    assert tunnel(server.names.http("a.dev", "/")) == 0
    assert server.names.http("b.dev", "/") is None


# Our client


@ensureDeferred
async def test_our_client(world: World, server: TunnelServer) -> None:
    settings = ClientSettings(
        DialAddress.parse(f"{HOST}:{world.control_port(server)}"),
        (
            TunnelSettings(0, DialAddress.parse(":3000"), "", "http", "app", "/api", DENIED),
            TunnelSettings(0, DialAddress.parse(":8443"), "tls", "https", "*.app"),
        ),
        check_services=False,
    )
    world.start(TunnelClient(reactor, settings))
    await world.reachable(2)
    found = server.names.http("app", "/api/x")
    assert found is not None
    assert found.rules == DENIED
    assert tunnel(server.names.https("x.app")) == 1


@ensureDeferred
async def test_what_a_client_says_of_services_that_are_down(world: World, server: TunnelServer) -> None:
    nobody = f"{HOST}:{free_port()}"
    tunnels = (*published(f"http:app={nobody}"), *published(f"https:app={nobody}"))
    world.start(
        TunnelClient(reactor, ClientSettings(DialAddress.parse(f"{HOST}:{world.control_port(server)}"), tunnels))
    )
    down = "does not answer (connection refused): visitors get"
    await world.logged(f"is published; the service at {nobody} {down} an error page (502) until it does")
    await world.logged(f"is published; TLS ends at the service, {nobody}, which {down} a reset until it does")


@ensureDeferred
async def test_the_page_says_whether_only_the_path_is_unknown(world: World, server: TunnelServer) -> None:
    await client(world, server, "http/app/api")
    for host, what in [("app", "this path of app"), ("other", "other")]:
        visitor = await world.visitor(port_of(server.named.listeners["http"]))
        visitor.send(f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await until(lambda visitor=visitor: visitor.received.endswith(b"\n"))  # type: ignore[misc]
        assert f"<p>nothing is published here for {what}\n".encode() in visitor.received
