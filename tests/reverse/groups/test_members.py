"""Groups: who may join, and who may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.rules import read_rules
from rtunnel.addresses import DialAddress
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server import groups
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.ports import free_port
from tests.reverse.groups.parts import GROUP, KEY, LOCAL, WITHDRAWAL, join, publish, refusal, visit
from tests.reverse.net import ERROR, HOST, INIT, NEW_CONN, hello, reactor, until
from tests.reverse.world import World


@ensureDeferred
async def test_members_share_the_visitors_of_a_port(world: World, server: TunnelServer) -> None:
    port = free_port()
    links = [await join(world, server) for _ in range(3)]
    for link in links:
        await publish(link, port)
    assert len(server.ports) == 1
    await visit(world, port, *links)
    await visit(world, port, *links)


@ensureDeferred
async def test_a_stranger_who_guesses_the_name_of_the_group(world: World, server: TunnelServer) -> None:
    """He learns no more than that there is a group; and no visitor is his."""
    port = free_port()
    member, stranger = await join(world, server), await join(world, server)
    await publish(member, port)
    why = f"port {port} is served by another group, or one with another key; write the 'group' and 'group-key' of all"
    for rules in ({**GROUP, "group-key": "f" * 16}, {**GROUP, "group": "app"}, {**GROUP, "group-key": KEY + "0"}):
        assert await refusal(stranger, port, rules) == ("port-in-use", why)
    without: list[dict[str, object]] = [{"group": "web"}, {"group": "web", "group-key": ""}, {"group-key": KEY}]
    for rules in without:
        assert (await refusal(stranger, port, rules))[0] == "bad-request"
    await visit(world, port, member, member)
    assert NEW_CONN not in stranger.seen
    assert not world.lines(KEY), "keys are in no log"


@ensureDeferred
async def test_with_a_group_and_without(world: World, server: TunnelServer) -> None:
    with_group, without = await join(world, server), await join(world, server)
    first, second = free_port(), free_port()
    await publish(with_group, first)
    await publish(without, second, {})
    assert await refusal(without, first, {}, 1) == (
        "port-in-use",
        f"port {first} is served by a group of clients; to join it, write its 'group' and 'group-key'",
    )
    assert await refusal(with_group, second, GROUP, 1) == (
        "port-in-use",
        f"port {second} is served by another client, outside the group 'web'; write the group and key there too",
    )
    assert len(world.lines(f"(client {with_group.name})")) == 1, "who has it is for the server's operator"


@pytest.mark.parametrize(
    ("key", "rules"),
    [
        ("balance", {"balance": "sticky"}),
        ("deny", {"deny": "192.0.2.7"}),
        ("max-connections", {"max-connections": 5}),
    ],
)
@ensureDeferred
async def test_rules_that_differ(world: World, server: TunnelServer, key: str, rules: dict[str, object]) -> None:
    port = free_port()
    members = [await join(world, server) for _ in range(3)]
    why = f"the other members of the group 'web' have another '{key}'; write the same for all"
    await publish(members[0], port)
    assert await refusal(members[1], port, {**GROUP, **rules}) == ("port-in-use", why)
    members[0].put(ERROR, 0, WITHDRAWAL)
    await members[0].is_alive()
    await publish(members[1], port, {**GROUP, **rules})
    assert await refusal(members[2], port) == ("port-in-use", why)


@ensureDeferred
async def test_rules_that_only_look_different(world: World, server: TunnelServer) -> None:
    port = free_port()
    for rules in ({"deny": ["192.0.2.7"]}, {"deny": "192.0.2.7/32", "balance": "round-robin", "allow": None}):
        await publish(await join(world, server), port, {**GROUP, **rules})
    assert len(next(iter(server.ports._held.values())).group) == 2


@ensureDeferred
async def test_the_same_client_twice(world: World, server: TunnelServer) -> None:
    link, port = await join(world, server), free_port()
    await publish(link, port)
    await publish(link, "http/app", GROUP, 1)
    assert await refusal(link, port, GROUP, 2) == ("port-in-use", f"this client serves port {port} already")
    assert await refusal(link, "http/app", GROUP, 2) == ("host-in-use", "this client serves http://app already")


@ensureDeferred
async def test_there_is_a_limit(world: World, server: TunnelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_MEMBERS", 2)
    port = free_port()
    links = [await join(world, server) for _ in range(3)]
    for link in links[:2]:
        await publish(link, port)
    assert await refusal(links[2], port) == ("port-in-use", "the group 'web' has 2 members, the most that may be")


@ensureDeferred
async def test_udp_and_the_shared_port_have_no_groups(world: World) -> None:
    link = await join(world, world.server(shared=True))
    assert await refusal(link, f"udp/{free_port()}") == (
        "bad-request",
        "key 'group': is not for UDP, whose ports one client serves; leave it out",
    )
    assert await refusal(link, 0) == ("bad-request", "the shared port is everybody's, and takes no group")


@ensureDeferred
async def test_a_member_without_rights(world: World, tmp_path: Path) -> None:
    """The key does not open what the clients file does not allow."""
    port = free_port()
    clients = tmp_path / "clients.yaml"
    clients.write_text(
        f"one: {{token: 1234-5678, ports: {port}, hosts: app}}\n"
        f"two: {{token: 8765-4321, ports: {free_port()}, hosts: other}}\n"
    )
    server = world.server(http_listen=LOCAL, admission=AdmissionSettings(clients))
    one, two = [await join(world, server, token=token) for token in ("1234-5678", "8765-4321")]
    await publish(one, port)
    await publish(one, "http/app", GROUP, 1)
    assert (await refusal(two, port))[0] == "port-not-allowed"
    assert (await refusal(two, "http/app"))[0] == "host-not-allowed"
    # Nor does it keep it open.
    clients.write_text(clients.read_text().replace(str(port), str(free_port())))
    assert (await one.take_json(ERROR, 0))["code"] == "port-not-allowed"
    await until(lambda: not server.ports)


# Host names


@ensureDeferred
async def test_a_name_belongs_to_one_group(world: World, server: TunnelServer) -> None:
    first, second = await join(world, server), await join(world, server)
    for number, what in enumerate(("http/app", "http/app/api", "https/app", "https/*.app")):
        await publish(first, what, GROUP, number)
    # A member need not have all parts.
    for number, what in enumerate(("http/app/api", "https/app", "http/app/v2")):
        await publish(second, what, GROUP, number)
    outside = "app is served by a group of clients; to join it, write its 'group' and 'group-key'"
    # Nor may it have a part alone.
    assert await refusal(second, "http/app/x", {}, 3) == ("host-in-use", outside)
    stranger = await join(world, server)
    for what in ("http/app", "http/app/x", "https/app"):
        assert await refusal(stranger, what, {}) == ("host-in-use", outside)
        assert (await refusal(stranger, what, {**GROUP, "group-key": "f" * 16}))[0] == "host-in-use"
    await publish(stranger, "http/b.app", {})
    assert len(server.names) == 8


@ensureDeferred
async def test_a_name_of_which_only_some_paths_are_in_the_group(world: World, server: TunnelServer) -> None:
    first, second = await join(world, server), await join(world, server)
    await publish(first, "http/app")
    await publish(first, "http/app/admin", {}, 1)
    assert await refusal(second, "http/app") == (
        "host-in-use",
        "app is served by another client, outside the group 'web'; write the group and key there too",
    )
    first.put(ERROR, 1, WITHDRAWAL)
    await first.is_alive()
    await publish(second, "http/app")
    # Another group for a path would be other people.
    assert (await refusal(first, "http/app/admin", {**GROUP, "group": "admin"}, 1))[0] == "host-in-use"
    await publish(first, "http/app/admin", GROUP, 1)


@ensureDeferred
async def test_a_name_stays_while_one_member_has_a_part_of_it(world: World, server: TunnelServer) -> None:
    first, second = await join(world, server), await join(world, server)
    await publish(first, "http/app")
    await publish(second, "http/app")
    await publish(second, "https/app", GROUP, 1)
    second.abort()
    await world.sessions(server, 1)
    assert server.names.https("app") is None
    group = server.names.http("app", "/")
    assert group is not None
    assert len(group) == 1
    first.put(ERROR, 0, WITHDRAWAL)
    await until(lambda: not server.names)
    await publish(await join(world, server), "http/app", {})


# The client


@ensureDeferred
async def test_a_server_that_does_not_know_groups(world: World) -> None:
    """The port must not be served without the rules."""
    listening = await world.raw_server()
    tunnel = replace(TunnelSettings(8080, DialAddress.parse(":80")), rules=read_rules(GROUP, "tcp"))
    settings = ClientSettings(DialAddress.parse(f"{HOST}:{listening.port}"), (tunnel,), check_services=False)
    world.start(TunnelClient(reactor, settings))
    link: Any = await listening.peer()
    link.send(hello())
    await world.logged("the server knows no rules for this kind of tunnel")
    assert INIT not in link.seen
