"""What every directory does, in memory and in Redis."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

from rtunnel.cluster.interface import Away, IDirectory, Taken
from tests.cluster.world import LONG, SHORT, World, claimed, not_lost
from tests.reverse.net import reactor, turns, until

ENGINES = ["memory", pytest.param("redis", marks=pytest.mark.process)]

pytestmark = pytest.mark.parametrize("world", ENGINES, indirect=True)

KEY = "port tcp 8080"


async def found(node: IDirectory, key: str) -> tuple[str, ...]:
    """Who holds a key, as soon as the node can say."""
    while True:
        try:
            return await node.find(key)
        except Away:
            await turns(5)


@ensureDeferred
async def test_a_key_has_one_owner(world: World) -> None:
    a, b = await world.node(), await world.node()
    claim = await a.claim(KEY, "me", not_lost)
    assert (claim.key, claim.owner, claim.is_good) == (KEY, "me", True)
    with pytest.raises(Taken) as taken:
        await b.claim(KEY, "you", not_lost)
    assert taken.value.nodes == (a.node,)
    assert await b.find(KEY) == (a.node,)
    a.release(claim)
    assert not claim.is_good
    other = await claimed(b, KEY, "you")
    assert other.is_good
    assert other.number > claim.number
    assert await a.find(KEY) == (b.node,)


@ensureDeferred
async def test_a_node_refuses_itself(world: World) -> None:
    node = await world.node()
    await node.claim(KEY, "me", not_lost)
    with pytest.raises(Taken) as taken:
        await node.claim(KEY, "you", not_lost)
    assert taken.value.nodes == (node.node,)


@ensureDeferred
async def test_an_owner_at_two_nodes(world: World) -> None:
    a, b, c = await world.node(), await world.node(), await world.node()
    one, two = await a.claim(KEY, "me", not_lost), await b.claim(KEY, "me", not_lost)
    assert one.number == two.number
    assert await c.find(KEY) == tuple(sorted((a.node, b.node)))
    a.release(one)
    await until(lambda: not one.is_good)
    assert await a.find(KEY) == (b.node,)
    with pytest.raises(Taken) as taken:
        await c.claim(KEY, "you", not_lost)
    assert taken.value.nodes == (b.node,)
    b.release(two)
    assert (await claimed(c, KEY, "you")).number > two.number


@ensureDeferred
async def test_an_owner_twice_at_one_node(world: World) -> None:
    """The key is free when the last claim is released, in whatever order."""
    a, b = await world.node(), await world.node()
    for first in (0, 1):
        claims = [await claimed(a, KEY, "me") for _ in range(2)]
        one, other = claims[first], claims[1 - first]
        a.release(one)
        assert (one.is_good, other.is_good) == (False, True)
        assert await a.find(KEY) == (a.node,)
        with pytest.raises(Taken):
            await b.claim(KEY, "you", not_lost)
        a.release(one)
        a.release(other)
        b.release(await claimed(b, KEY, "you"))


@ensureDeferred
async def test_one_of_several_at_once(world: World) -> None:
    nodes = [await world.node() for _ in range(4)]

    async def attempt(node: Any) -> bool:
        try:
            await node.claim(KEY, node.node, not_lost)
        except Taken:
            return False
        return True

    found = await gatherResults([Deferred.fromCoroutine(attempt(node)) for node in nodes])
    assert sorted(found) == [False, False, False, True]


@ensureDeferred
async def test_numbers_grow(world: World) -> None:
    a, b = await world.node(), await world.node()
    numbers = []
    for node in (a, b, a, a, b):
        claim = await claimed(node, KEY, node.node)
        numbers.append(claim.number)
        node.release(claim)
    assert sorted(set(numbers)) == numbers


@ensureDeferred
async def test_released_in_the_same_moment(world: World) -> None:
    """The key is free for another owner at the same node at once."""
    node = await world.node()
    for number in range(3):
        node.release(await node.claim(KEY, f"owner {number}", not_lost))
    assert await node.find(KEY) == ()


@ensureDeferred
async def test_a_lease_ends(world: World) -> None:
    """Whoever has the key next has it only when the first one knows that it may not have it."""
    a, b = await world.node(SHORT), await world.node(SHORT)
    reasons: list[object] = []

    def lost(why: str) -> None:
        # The lease counts again only after each claim was made again or lost.
        reasons.append((why, a.is_sure))

    first = await claimed(a, KEY, "me", lost)
    again = await claimed(a, KEY, "me", lost)
    world.part(a)
    second = await claimed(b, KEY, "you", lambda why: None)
    assert not first.is_good
    assert second.number > first.number
    assert not reasons
    await world.healed(a)
    await until(lambda: reasons)
    assert reasons == [(f"held at {b.node}", False)] * 2
    assert first.is_lost
    assert again.is_lost


@ensureDeferred
async def test_a_lease_is_renewed(world: World) -> None:
    a, b = await world.node(SHORT), await world.node(SHORT)
    claim = await claimed(a, KEY, "me")
    end = reactor.seconds() + 1.5 * SHORT.lease
    await until(lambda: reactor.seconds() > end and claim.is_good)
    assert await found(b, KEY) == (a.node,)


@ensureDeferred
async def test_parted_and_back(world: World) -> None:
    """Nobody has taken the key in between: the owner still has it."""
    a, b = await world.node(), await world.node()
    claim = await a.claim(KEY, "me", not_lost)
    world.part(a)
    await until(lambda: a.why_away)
    assert claim.is_good
    await world.healed(a)
    assert claim.is_good
    assert await b.find(KEY) == (a.node,)


@ensureDeferred
async def test_released_while_parted(world: World) -> None:
    a, b = await world.node(), await world.node()
    claim = await a.claim(KEY, "me", not_lost)
    kept = await a.claim("other", "me", not_lost)
    world.part(a)
    await until(lambda: a.why_away)
    a.release(claim)
    await world.healed(a)
    await claimed(b, KEY, "you")
    assert await b.find(kept.key) == (a.node,)


@ensureDeferred
async def test_away(world: World) -> None:
    a, b = await world.node(), await world.node()
    world.part(a)
    await until(lambda: a.why_away)
    for attempt in (
        a.claim(KEY, "me", not_lost),
        a.find(KEY),
        a.tally("x", 1),
        a.send(b.node, "x", {}),
    ):
        with pytest.raises(Away):
            await attempt
    assert a.is_cluster
    assert a.is_sure


@ensureDeferred
async def test_all_have_one_session(world: World) -> None:
    """A node that cannot reach the directory, or has not done so yet, has it too."""
    a, b = await world.node(), world.build(LONG)
    assert re.fullmatch("[0-9a-f]{32}", a.session)
    assert a.session == b.session


@ensureDeferred
async def test_tallies(world: World) -> None:
    a, b = await world.node(), await world.node()
    assert await a.tally("x", 3) == 3
    assert await b.tally("x", 4) == 7
    assert await a.tally("x", 0) == 4
    assert await a.tally("y", 1) == 1
    await b.stopService()
    assert await a.tally("x", 1) == 1


@ensureDeferred
async def test_a_tally_goes_with_the_lease(world: World) -> None:
    a, b = await world.node(), await world.node(SHORT)
    await claimed(b, "its claims are made", "me")
    await b.tally("x", 4)
    await until(lambda: b.node in a.nodes)
    world.part(b)
    await until(lambda: b.node not in a.nodes)
    assert await a.tally("x", 1) == 1


@ensureDeferred
async def test_who_is_there(world: World) -> None:
    a, b = await world.node(), world.build(LONG)
    changes: list[object] = []
    a.watch(lambda: changes.append(dict(a.nodes)))
    b.announce({"at": "b"})
    await world.begin(b)
    await until(lambda: a.nodes == {b.node: {"at": "b"}})
    await until(lambda: b.nodes == {a.node: {}})
    b.announce({"at": "elsewhere", "ä": [1, None]})
    await until(lambda: a.nodes == {b.node: {"at": "elsewhere", "ä": [1, None]}})
    await b.stopService()
    await until(lambda: not a.nodes)
    assert changes == [{b.node: {"at": "b"}}, {b.node: {"at": "elsewhere", "ä": [1, None]}}, {}]


@ensureDeferred
async def test_messages(world: World) -> None:
    a, b = await world.node(), await world.node()
    heard: list[object] = []
    b.listen("x", lambda sender, message: heard.append((sender, message)))
    # Redis needs a moment to know that it listens.
    while not await a.send(b.node, "x", {"ready": True}):
        pass
    for number in range(50):
        assert await a.send(b.node, "x", {"number": number, "text": "ä\r\n" * number})
    await until(lambda: len(heard) >= 51)
    assert heard == [(a.node, {"ready": True})] + [
        (a.node, {"number": number, "text": "ä\r\n" * number}) for number in range(50)
    ]
    assert not await a.send(b.node, "another kind", {})
    assert not await a.send("another node", "x", {})
    await b.stopService()
    # It takes a moment until it is known that it listens no more.
    while await a.send(b.node, "x", {}):
        pass


@ensureDeferred
async def test_a_node_that_stops_gives_all_back(world: World) -> None:
    a, b = await world.node(), await world.node()
    claims = [await a.claim(f"key {number}", "me", not_lost) for number in range(3)]
    await a.stopService()
    assert not any(claim.is_good for claim in claims)
    for claim in claims:
        assert await b.find(claim.key) == ()
    assert (await b.claim("key 0", "you", not_lost)).number > claims[0].number


@ensureDeferred
async def test_a_listener_that_raises(world: World, flush_logged_errors: Any) -> None:
    """Its error is logged, and the directory goes on."""
    a, b = await world.node(), await world.node()
    heard = []

    def listen(sender: str, message: Any) -> None:
        heard.append(message)
        raise ValueError("mine")

    b.listen("x", listen)
    while not await a.send(b.node, "x", {}):
        pass
    await a.send(b.node, "x", {})
    await until(lambda: len(heard) == 2)
    assert len(flush_logged_errors(ValueError)) == 2
