"""Groups: members that come and go, and claims meanwhile."""

from __future__ import annotations

import json

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.reverse.server.service import TunnelServer
from tests.ports import free_port
from tests.reverse.groups.parts import GROUP, WITHDRAWAL, ask, dead, join, publish, refusal, visit
from tests.reverse.net import ERROR, NEW_CONN, READY, is_refused, turns, until
from tests.reverse.world import World

SESSION = "0123456789abcdef" * 2


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
    """They wait for the same holder, who goes. Beside them waits one with other rules: it is served, or they are."""
    port = free_port()
    holder = await dead(world, server)
    await publish(holder, port, {})
    links = [await join(world, server) for _ in range(3)]
    for link, rules in zip(links, (GROUP, GROUP, {**GROUP, "balance": "sticky"}), strict=True):
        ask(link, port, rules)
        await turns(2)
    holder.abort()
    await until(lambda: all({READY, ERROR} & set(link.seen) for link in links))
    served = [link for link in links if READY in link.seen]
    assert served in (links[:2], links[2:])
    for link in links:
        if link not in served:
            assert "another 'balance'" in (await link.take_json(ERROR, 0))["message"]
    await visit(world, port, *served)


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
    held.group._last_holders = ["elsewhere"]
    visitor = await world.visitor(port)
    await until(lambda: len(held.group._line) == 1)
    await publish(stranger, port, {**GROUP, "group-key": "f" * 16})
    await visitor.ends()
    await visit(world, port, stranger)
    stranger.abort()
    await world.sessions(server, 0)
    visitor = await world.visitor(port)
    again = await join(world, server)
    held.group._last_holders = ["elsewhere"]
    await publish(again, port, {**GROUP, "group-key": "f" * 16})
    await again.take(NEW_CONN)
    assert not visitor.over
