"""What happens when Redis does not do what it should: it ends, hangs, forgets, is full, or is somebody else."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from rtunnel.cluster.interface import Away, Taken
from rtunnel.cluster.redis import RedisDirectory
from rtunnel.cluster.redis_commands import Commands, CommandsFactory, ReplyTimer
from rtunnel.cluster.redis_scripts import ANNOUNCE, CLAIM, JOIN, RELEASE, RENEW, TALLY, digest
from rtunnel.cluster.redis_texts import MAX_MESSAGE
from rtunnel.cluster.settings import ClusterUrl
from tests.cluster.redis_server import RedisServer
from tests.cluster.world import HASTY, KEY, LONG, RedisWorld, answer, claimed, lines, not_lost
from tests.leftovers import TestLog
from tests.reverse.net import reactor, turns, until


@ensureDeferred
async def test_redis_ends_and_comes_back_empty(own_world: RedisWorld, log: TestLog) -> None:
    """Holders claim again what they had; nobody loses anything."""
    a, b = await own_world.node(), await own_world.node()
    claims = [await a.claim(f"{KEY} {number}", "me", not_lost) for number in range(250)]
    await a.tally("x", 3)
    own_world.server.kill()
    await until(lambda: a.why_away and b.why_away)
    assert all(claim.is_good for claim in claims)
    own_world.server.start()
    await until(lambda: not a.why_away and not b.why_away)
    assert all(claim.is_good for claim in claims)
    for claim in claims[::50]:
        with pytest.raises(Taken):
            await b.claim(claim.key, "you", not_lost)
    assert await b.tally("x", 1) == 4
    await until(lambda: set(b.nodes) == {a.node})
    # The reason of each node is told once, however often Redis was dialled.
    assert len(lines(log)) == len(set(lines(log)))


@ensureDeferred
async def test_another_was_faster_after_a_loss(own_world: RedisWorld) -> None:
    """Whoever has lost a claim with Redis's memory hears of it as soon as it is back, and never counts on it again."""
    a, b = await own_world.node(), await own_world.node()
    reasons: list[str] = []
    first = await a.claim(KEY, "me", reasons.append)
    own_world.part(a)
    own_world.server.kill()
    await until(lambda: a.why_away and b.why_away)
    own_world.server.start()
    await until(lambda: not b.why_away)
    second = await b.claim(KEY, "you", not_lost)
    assert second.number > first.number
    await own_world.healed(a)
    assert reasons == [f"held at {b.node}"]
    assert first.is_lost


@ensureDeferred
async def test_the_lease_is_deleted(own_world: RedisWorld) -> None:
    """What an operator deletes comes back."""
    a, b = await own_world.node(), await own_world.node()
    claim = await a.claim(KEY, "me", not_lost)
    number = claim.number
    own_world.server.cli("FLUSHALL")
    await until(lambda: claim.number > number)
    await until(lambda: claim.is_good)
    with pytest.raises(Taken):
        await answer(b)


@ensureDeferred
async def test_redis_hangs(own_world: RedisWorld) -> None:
    """Whatever was asked fails in time. Nobody holds what he was not told that he has."""
    a = await own_world.node(HASTY)
    b = await own_world.node()
    kept = await a.claim("kept", "me", not_lost)
    own_world.server.freeze()
    with pytest.raises(Away, match="it does not answer"):
        await a.claim(KEY, "me", not_lost)
    assert kept.is_good
    await until(lambda: "does not answer" in a.why_away)
    own_world.server.thaw()
    await until(lambda: not a.why_away)
    await claimed(b, KEY, "you")
    assert await b.find("kept") == (a.node,)


def test_all_replies_that_have_come_are_taken_at_once() -> None:
    """A turn of the reactor for each would be long if much else goes on."""
    clock = Clock()
    factory = CommandsFactory(lambda: Commands(clock, 2.0))
    commands = factory.buildProtocol(None)
    commands.makeConnection(StringTransport())
    asked = [Deferred.fromCoroutine(commands.ask("GET", str(number))) for number in range(500)]
    replies = b"".join(b"$3\r\n%03d\r\n" % number for number in range(500))
    for half in (replies[:3333], replies[3333:]):
        commands.dataReceived(half)
    assert [each.result for each in asked] == [b"%03d" % number for number in range(500)]


def test_a_busy_process_reads_once_more_before_a_reply_is_late() -> None:
    clock, late = Clock(), list[int]()
    timers = [ReplyTimer(clock, 2.0, partial(late.append, number)) for number in range(2)]
    calls: Any = clock.getDelayedCalls()
    for call in calls:
        assert call.getTime() == 2.0
        clock.calls.remove(call)
        call.func()
    assert not late
    # The reply to one of them was there all the time.
    timers[0].cancel()
    assert [timer.active() for timer in timers] == [False, True]
    clock.advance(0)
    assert late == [1]


@ensureDeferred
async def test_redis_pauses(own_world: RedisWorld) -> None:
    a = await own_world.node(HASTY)
    claim = await a.claim(KEY, "me", not_lost)
    own_world.server.cli("CLIENT", "PAUSE", "600")
    await until(lambda: a.why_away)
    await until(lambda: not a.why_away)
    assert claim.is_good
    assert await a.find(KEY) == (a.node,)


@ensureDeferred
async def test_requests_that_have_failed_are_done_late(own_world: RedisWorld) -> None:
    """Nobody holds a key for a claim that has failed."""
    a = await own_world.node(HASTY)
    own_world.server.freeze()
    failed = [maybeDeferred(Deferred.fromCoroutine, a.claim(f"late {number}", "me", not_lost)) for number in range(20)]
    for each in failed:
        with pytest.raises(Away):
            await each
    own_world.server.thaw()
    await until(lambda: not a.why_away)
    await until(lambda: "late" not in own_world.server.cli("KEYS", "*"))


@pytest.mark.parametrize("script", [CLAIM, TALLY, RELEASE, RENEW, ANNOUNCE, JOIN], ids=range(6))
@ensureDeferred
async def test_requests_of_an_old_session_are_refused(own_world: RedisWorld, script: str) -> None:
    """They may be done by Redis when the node has connected again."""
    a = await own_world.node()
    own_world.part(a)
    await own_world.healed(a)
    await a.claim(KEY, "me", not_lost)
    before = own_world.server.cli("KEYS", "*")
    late = (own_world.prefix, a.node, "1", f"key:{KEY}", "1")
    assert own_world.server.cli("EVALSHA", digest(script), "0", *late).strip() == "gone"
    assert sorted(own_world.server.cli("KEYS", "*").split()) == sorted(before.split())


@ensureDeferred
async def test_memory_is_used_up(own_world: RedisWorld, log: TestLog) -> None:
    """New claims are refused, and nothing is lost; leases are renewed, and claims released."""
    a, b = await own_world.node(), await own_world.node()
    claim = await a.claim(KEY, "me", not_lost)
    own_world.server.cli("CONFIG", "SET", "maxmemory", "1000")
    with pytest.raises(Away, match="its memory is used up"):
        await a.claim("another", "me", not_lost)
    sure = a._sure_until
    await until(lambda: a._sure_until > sure)
    assert claim.is_good
    assert await b.find(KEY) == (a.node,)
    a.release(claim)
    await until(lambda: KEY not in own_world.server.cli("KEYS", "*"))
    assert not a.why_away
    own_world.server.cli("CONFIG", "SET", "maxmemory", "0")
    assert (await a.claim("another", "me", not_lost)).is_good
    assert not lines(log)


@ensureDeferred
async def test_a_master_without_replicas(own_world: RedisWorld) -> None:
    """As docs/cluster.rst advises: a master that was cut off from its replicas renews no lease."""
    a = await own_world.node()
    claim = await a.claim(KEY, "me", not_lost)
    own_world.server.cli("CONFIG", "SET", "min-replicas-to-write", "1")
    await until(lambda: "it has fewer replicas than min-replicas-to-write asks for" in a.why_away)
    until_then = a._sure_until
    await turns(100)
    assert a._sure_until == until_then
    own_world.server.cli("CONFIG", "SET", "min-replicas-to-write", "0")
    await until(lambda: not a.why_away)
    assert claim.is_good


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("s3cret-and-wrong", "it refuses the user or the password of --cluster"),
        ("", "it asks for a password; write redis://PASSWORD@HOST in --cluster"),
    ],
)
@ensureDeferred
async def test_a_wrong_password(
    own_redis: RedisServer, short_path: Path, log: TestLog, password: str, why: str
) -> None:
    own_redis.login = ("--no-auth-warning", "-a", "right")
    own_redis.start("--requirepass", "right")
    world = RedisWorld(own_redis, short_path, password)
    node = world.build(LONG)
    node.startService()
    await until(lambda: why in node.why_away)
    await turns(100)
    assert [why in line for line in lines(log)] == [True]
    assert "s3cret" not in log.text()
    await node.stopService()
    right = RedisWorld(own_redis, short_path, "right")
    assert await (await right.node()).find(KEY) == ()
    await right.stop()
    await world.stop()


@ensureDeferred
async def test_nobody_is_there(short_path: Path, log: TestLog) -> None:
    node = RedisDirectory(reactor, ClusterUrl("redis+unix", (), str(short_path / "nothing")), LONG)
    node.startService()
    await until(lambda: "No such file" in node.why_away)
    with pytest.raises(Away, match="No such file"):
        await node.claim(KEY, "me", not_lost)
    await turns(100)
    assert len(lines(log)) == 1
    await node.stopService()


@ensureDeferred
async def test_odd_things_in_redis(own_world: RedisWorld, log: TestLog) -> None:
    """Another program writes there too. It costs lines in the log, and nothing else."""
    server, prefix = own_world.server, own_world.prefix
    a, b = await own_world.node(), await own_world.node()
    heard: list[Any] = []
    a.listen("x", lambda sender, message: heard.append(message))
    while not await b.send(a.node, "x", {}):
        pass
    server.cli("SET", f"{prefix}key:{KEY}", "\xff")
    assert await a.find(KEY) == ()
    assert (await a.claim(KEY, "me", not_lost)).is_good
    server.cli("HSET", f"{prefix}key:odd", f"@{b.node}", "")
    with pytest.raises(Taken):
        await a.claim("odd", "me", not_lost)
    server.cli("HSET", f"{prefix}key:odd", "owner", "me", "number", "many")
    assert (await a.claim("odd", "me", not_lost)).number == 0
    server.cli("SADD", f"{prefix}nodes", "string", "binary")
    server.cli("SET", f"{prefix}node:string", "1")
    server.cli("HSET", f"{prefix}node:binary", "about", os.fsdecode(b"\xff"))
    await until(lambda: {"string", "binary", b.node} <= set(a.nodes))
    server.cli("HSET", f"{prefix}node:{b.node}", "about", "{[")
    await until(lambda: any("says about itself what cannot be read" in line for line in lines(log)))
    channel = f"{prefix}to:{a.node}:x"
    for odd in ("", "{", "[]", "1", '{"from": 1, "message": {}}', '{"from": "me", "message": 1}', "[" * 100_000):
        assert server.cli("PUBLISH", channel, odd).strip() == "1"
    server.cli("PUBLISH", f"{prefix}nodes", "\xff")
    await b.send(a.node, "x", {"last": True})
    await until(lambda: {"last": True} in heard)
    assert heard == [{}, {"last": True}]
    server.cli("SET", f"{prefix}tally:x", "1")
    with pytest.raises(Away, match="WRONGTYPE"):
        await a.tally("x", 1)
    server.cli("SET", f"{prefix}number", "many")
    assert (await b.claim("new", "me", not_lost)).number > 0
    assert not a.why_away
    assert (await b.find(KEY)) == (a.node,)


@ensureDeferred
async def test_a_message_that_is_too_long(own_world: RedisWorld) -> None:
    a, b = await own_world.node(), await own_world.node()
    with pytest.raises(Away, match=r"the message has 262,\d+ bytes, and at most 262,144 are sent"):
        await a.send(b.node, "x", {"text": "x" * MAX_MESSAGE})
    assert not await a.send(b.node, "x", {"text": "x" * (MAX_MESSAGE - 100)})


@ensureDeferred
async def test_something_that_is_no_redis(short_path: Path) -> None:
    from twisted.internet.endpoints import UNIXServerEndpoint
    from twisted.internet.protocol import Factory, Protocol

    class Web(Protocol):
        def connectionMade(self) -> None:
            assert self.transport is not None
            self.transport.write(b"HTTP/1.1 400 \xff\r\n*x\r\n$y\r\n\r\n" + b"x" * 20_000)

    path = short_path / "web"
    port = await UNIXServerEndpoint(reactor, str(path)).listen(Factory.forProtocol(Web))
    node = RedisDirectory(reactor, ClusterUrl("redis+unix", (), str(path)), replace(LONG, reply=0.2))
    node.startService()
    await until(lambda: str(path) in node.why_away)
    await node.stopService()
    await maybeDeferred(port.stopListening)


@ensureDeferred
async def test_dead_nodes_leave_nothing_in_redis(own_world: RedisWorld) -> None:
    dead, alive = await own_world.node(replace(LONG, lease=0.3)), await own_world.node()
    for number in range(3):
        await claimed(dead, f"key {number}", "me", lambda why: None)
    own_world.part(dead)
    await until(lambda: "key" not in own_world.server.cli("KEYS", "*"))
    assert own_world.server.cli("SMEMBERS", f"{own_world.prefix}nodes").split() == [alive.node]
