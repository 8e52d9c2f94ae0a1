"""INIT that only asks: the server says what it would answer, and does nothing."""

from __future__ import annotations

import json
from collections.abc import Sized
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.addresses import ListenAddress, PortRanges
from rtunnel.reverse.server.service import TunnelServer
from tests.ports import free_port
from tests.reverse.net import ERROR, HOST, INIT, READY, RawLink, can_bind, until
from tests.reverse.world import World

CAPABILITIES = ["withdraw", "udp", "hosts", "rules", "check"]
LOCAL = ListenAddress.parse(f"{HOST}:0")
GROUP = {"group": "web", "group-key": "0123456789abcdef"}


async def asking(world: World, server: TunnelServer, **values: Any) -> RawLink:
    return await world.raw_extended(server, capabilities=CAPABILITIES, **values)


def put(link: RawLink, number: int, what: str, **rules: object) -> None:
    link.put(INIT, number, f"{what}:local\n{json.dumps(rules)}".encode())


async def allowed(link: RawLink, what: str, **rules: object) -> bool:
    put(link, 5, what, **rules, **{"only-check": True})
    return (await link.take_json(READY, 5)) == {"address": ""}


async def refused(link: RawLink, what: str, **rules: object) -> str:
    put(link, 5, what, **rules, **{"only-check": True})
    error = await link.take_json(ERROR, 5)
    assert error["scope"] == "tunnel"
    return str(error["code"])


def has_nothing(server: TunnelServer) -> bool:
    """Whether the server has kept nothing of what was asked."""
    kept: tuple[Sized, ...] = (server.ports, server.names, server.shared_backends, server.visitors.accounts._accounts)
    return not any(map(len, kept)) and not any(session.backends or session.link.tunnels for session in server.sessions)


@ensureDeferred
async def test_what_is_allowed_is_not_published(world: World) -> None:
    server, port = world.server(shared=True, http_listen=LOCAL, https_listen=LOCAL), free_port()
    link = await asking(world, server)
    for what in (str(port), f"udp/{port}", "0", "http/app.example.org/api", "https/*.example.org"):
        # The number is free after each answer.
        assert await allowed(link, what), what
    assert await allowed(link, str(port), deny=["192.0.2.7"], **GROUP)
    assert has_nothing(server)
    assert can_bind(port)
    assert not world.lines("published")
    put(link, 5, str(port))
    assert (await link.take_json(READY, 5))["address"] == f"{HOST}:{port}"


@ensureDeferred
async def test_refusals_of_the_server(world: World) -> None:
    port, other = free_port(), free_port()
    server = world.server(allow_ports=PortRanges.parse(str(port)), https_listen=LOCAL)
    link = await asking(world, server)
    assert await refused(link, str(other)) == "port-not-allowed"
    assert await refused(link, f"udp/{other}") == "port-not-allowed"
    assert await refused(link, "0") == "no-shared-port"
    assert await refused(link, "http/app.example.org") == "not-supported"
    assert await refused(link, "https/a..b") == "bad-request"
    assert await refused(link, str(port), nonsense=1) == "bad-request"
    assert await refused(link, f"udp/{port}", **GROUP) == "bad-request"
    assert await allowed(link, str(port))
    assert has_nothing(server)
    assert world.lines("only asked about, would be refused: no-shared-port")


@ensureDeferred
async def test_refusals_of_the_clients_file(world: World, tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    path = tmp_path / "clients.yaml"
    path.write_text(
        f"laptop: {{token: a-right-token, ports: ['{port}', '{other}'], hosts: ['*.laptop.example.org'], "
        "shared: false, tunnels: 1}\n"
    )
    path.chmod(0o600)
    server = world.server(shared=True, http_listen=LOCAL, admission=AdmissionSettings(path))
    link = await asking(world, server, token="a-right-token")
    assert await refused(link, str(free_port())) == "port-not-allowed"
    assert await refused(link, "0") == "port-not-allowed"
    assert await refused(link, "http/other.example.org") == "host-not-allowed"
    assert await allowed(link, "http/app.laptop.example.org")
    assert await allowed(link, str(port))
    put(link, 0, str(port))
    await link.take(READY, 0)
    assert await refused(link, str(other)) == "limit"


@ensureDeferred
async def test_what_others_have_stays_theirs(world: World) -> None:
    server, port, grouped = world.server(shared=True, http_listen=LOCAL, hold=0), free_port(), free_port()
    holder = await asking(world, server)
    for number, (what, rules) in enumerate({str(port): {}, "http/app": {}, str(grouped): GROUP, "0": {}}.items()):
        put(holder, number, what, **rules)
        await holder.take(READY, number)
    link = await asking(world, server)
    assert await refused(link, str(port)) == "port-in-use"
    assert await refused(link, str(port), **GROUP) == "port-in-use"
    assert await refused(link, str(grouped)) == "port-in-use"
    assert await refused(link, "http/app/below") == "host-in-use"
    assert await allowed(link, str(grouped), **GROUP)
    assert await allowed(link, "0")
    assert await allowed(link, f"udp/{port}")
    # The holder itself has them already.
    assert await refused(holder, str(port)) == "port-in-use"
    assert await refused(holder, "0") == "port-in-use"
    assert len(server.ports) == 2
    assert len(server.names) == len(server.shared_backends) == 1
    holder.close()
    await until(lambda: not server.ports)
    assert await allowed(link, str(port))


@ensureDeferred
async def test_a_server_that_goes_down(world: World) -> None:
    server, port = world.server(), free_port()
    link = await asking(world, server)
    await server.refuse_visitors()
    assert await refused(link, str(port)) == "shutting-down"


@pytest.mark.parametrize("capabilities", [["withdraw", "rules"], ["withdraw"]])
@ensureDeferred
async def test_a_client_that_did_not_agree_gets_no_tunnel(world: World, capabilities: list[str]) -> None:
    server, port = world.server(), free_port()
    link = await world.raw_extended(server, capabilities=capabilities)
    assert await refused(link, str(port)) == "not-supported"
    assert can_bind(port)
    assert has_nothing(server)


@ensureDeferred
async def test_asked_without_end(world: World) -> None:
    """Whoever asks and asks costs an answer each, as with other INITs that are refused."""
    server, port = world.server(), free_port()
    link = await asking(world, server)
    for number in range(5000):
        put(link, number, str(port), **{"only-check": True})
    await link.take(READY, 4999)
    assert has_nothing(server)
