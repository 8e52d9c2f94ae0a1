"""Groups: who may join, and who may not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.rules import read_rules
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server import groups, take_over
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.ports import free_port
from tests.reverse.net import (
    ERROR,
    HELLO,
    HOST,
    INIT,
    NEW_CONN,
    PING,
    PONG,
    READY,
    RawLink,
    hello,
    is_refused,
    reactor,
    turns,
    until,
)
from tests.reverse.world import World

CAPABILITIES = ["withdraw", "udp", "hosts", "rules"]
LOCAL = ListenAddress.parse(f"{HOST}:0")
KEY = "0123456789abcdef"
GROUP: dict[str, object] = {"group": "web", "group-key": KEY}
WITHDRAWAL = b'{"scope": "tunnel", "code": "shutting-down", "message": ""}'
SESSION = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder is never taken for dead because the machine is busy."""
    monkeypatch.setattr(take_over, "TAKE_OVER_AFTER", 1000.0)
    monkeypatch.setattr(take_over, "TAKE_OVER_POLL", 0.01)


@pytest.fixture
def hasty(_patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder is soon taken for dead."""
    monkeypatch.setattr(take_over, "TAKE_OVER_AFTER", 0.3)


@pytest.fixture
def server(world: World) -> TunnelServer:
    return world.server(http_listen=LOCAL, https_listen=LOCAL, hold=0)


class Member(RawLink):
    """A client by hand that answers PINGs."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        for kind, _, payload in self.frames:
            if kind == PING:
                self.put(PONG, 0, payload)
        self.frames = [frame for frame in self.frames if frame[0] != PING]


async def join(world: World, server: TunnelServer, **values: Any) -> RawLink:
    """A client of a server."""
    link = await world.join(world.control_port(server), Member())
    return await greet(link, **values)


async def dead(world: World, server: TunnelServer, **values: Any) -> RawLink:
    """A client that answers nothing."""
    return await greet(await world.raw(server), **values)


async def greet(link: RawLink, **values: Any) -> RawLink:
    link.send(hello(capabilities=CAPABILITIES, **values))
    await link.take(HELLO)
    return link


def ask(link: RawLink, what: object, rules: dict[str, object], number: int = 0) -> None:
    second = f"\n{json.dumps(rules)}" if rules else ""
    link.put(INIT, number, f"{what}:local{second}".encode())


async def publish(link: RawLink, what: object, rules: dict[str, object] = GROUP, number: int = 0) -> None:
    ask(link, what, rules, number)
    await link.take(READY, number)


async def refusal(link: RawLink, what: object, rules: dict[str, object] = GROUP, number: int = 0) -> tuple[str, str]:
    """Ask for a place in vain; return the code and the text."""
    ask(link, what, rules, number)
    error = await link.take_json(ERROR, number)
    return error["code"], error["message"]


async def visit(world: World, port: int, *links: RawLink) -> None:
    """So many visitors of *port* reach one of these links each."""
    for _ in links:
        await world.visitor(port)
    for link in links:
        await link.take(NEW_CONN)


# Who may join


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


# Who comes and goes


@ensureDeferred
async def test_a_port_is_open_for_as_long_as_there_are_members(world: World, server: TunnelServer) -> None:
    port = free_port()
    first, second = await join(world, server), await join(world, server)
    await publish(first, port)
    await publish(second, port)
    first.put(ERROR, 0, WITHDRAWAL)
    await first.is_alive()
    await visit(world, port, second, second)
    await publish(first, port)
    second.abort()
    await world.sessions(server, 1)
    await visit(world, port, first, first)
    first.put(ERROR, 0, WITHDRAWAL)
    await until(lambda: not server.ports)
    await is_refused(port)


@ensureDeferred
async def test_a_member_that_comes_back(world: World, server: TunnelServer) -> None:
    """Its last link looks alive still, as after a change of network."""
    port = free_port()
    other = await join(world, server)
    await publish(other, port)
    for _ in range(5):
        link = await join(world, server, session=SESSION)
        await publish(link, port)
    await world.sessions(server, 2)
    await visit(world, port, other, link)


@ensureDeferred
async def test_a_member_that_joins_while_another_one_is_asked(world: World, server: TunnelServer) -> None:
    port = free_port()
    holder, stranger, second = await dead(world, server), await join(world, server), await join(world, server)
    await publish(holder, port)
    ask(stranger, port, {})
    await until(lambda: any(session._opening for session in server.sessions))
    await publish(second, port)
    holder.abort()
    error = await stranger.take_json(ERROR, 0)
    assert error["message"].startswith(f"port {port} is served by a group of clients")
    await visit(world, port, second)


@pytest.mark.usefixtures("hasty")
@ensureDeferred
async def test_a_group_that_is_dead_gives_way(world: World, server: TunnelServer) -> None:
    port = free_port()
    for _ in range(2):
        link = await dead(world, server)
        await publish(link, port)
        await publish(link, "http/app", GROUP, 1)
    for what in (port, "http/app"):
        stranger = await join(world, server)
        await publish(stranger, what, {})
    await world.sessions(server, 2)


@pytest.mark.usefixtures("hasty")
@ensureDeferred
async def test_a_group_of_which_one_lives_does_not_give_way(world: World, server: TunnelServer) -> None:
    port = free_port()
    await publish(await dead(world, server), port)
    member = await join(world, server)
    await publish(member, port)
    stranger = await join(world, server)
    assert (await refusal(stranger, port, {}))[0] == "port-in-use"
    await visit(world, port, member)


@ensureDeferred
async def test_two_members_at_once(world: World, server: TunnelServer) -> None:
    """They wait for the same holder, who goes."""
    port = free_port()
    holder = await dead(world, server)
    await publish(holder, port, {})
    links = [await join(world, server) for _ in range(3)]
    for link, rules in zip(links, (GROUP, GROUP, {**GROUP, "balance": "sticky"}), strict=True):
        ask(link, port, rules)
        await turns(2)
    holder.abort()
    for link in links[:2]:
        await link.take(READY, 0)
    assert "another 'balance'" in (await links[2].take_json(ERROR, 0))["message"]
    await visit(world, port, *links[:2])


@ensureDeferred
async def test_one_client_that_asks_twice_while_the_holder_is_asked(world: World, server: TunnelServer) -> None:
    port = free_port()
    holder, link = await dead(world, server), await join(world, server)
    await publish(holder, port, {})
    for number in (0, 1):
        ask(link, port, GROUP, number)
    await turns(2)
    holder.abort()
    await until(lambda: {READY, ERROR} <= set(link.seen))
    error = json.loads(next(payload for kind, _, payload in link.frames if kind == ERROR))
    assert error["message"] == f"this client serves port {port} already"


@ensureDeferred
async def test_a_claim_that_is_withdrawn_while_a_holder_is_asked(world: World, server: TunnelServer) -> None:
    port = free_port()
    holder, link, member = await dead(world, server), await join(world, server), await join(world, server)
    await publish(holder, port, {})
    for each in (link, member):
        ask(each, port, GROUP)
    await until(lambda: sum(session._opening for session in server.sessions) == 2)
    link.put(ERROR, 0, WITHDRAWAL)
    await link.is_alive()
    holder.abort()
    await member.take(READY, 0)
    await visit(world, port, member, member)
    assert {READY, NEW_CONN}.isdisjoint(link.seen)


@ensureDeferred
async def test_who_comes_after_the_last_member_need_not_be_one(world: World) -> None:
    """Visitors that wait for the group do not get another client."""
    server, port = world.server(), free_port()
    member, stranger = await join(world, server), await join(world, server)
    await publish(member, port)
    member.abort()
    await world.sessions(server, 1)
    (held,) = server.ports._held.values()
    held.group._last_holder = "elsewhere"
    visitor = await world.visitor(port)
    await until(lambda: len(held.group._line) == 1)
    await publish(stranger, port, {**GROUP, "group-key": "f" * 16})
    await visitor.ends()
    await visit(world, port, stranger)
    stranger.abort()
    await world.sessions(server, 0)
    visitor = await world.visitor(port)
    again = await join(world, server)
    held.group._last_holder = "elsewhere"
    await publish(again, port, {**GROUP, "group-key": "f" * 16})
    await again.take(NEW_CONN)
    assert not visitor.over


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
