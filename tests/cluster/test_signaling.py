"""Signaling servers whose directory is in Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from rtunnel.cluster.times import Times
from rtunnel.control.rtc.signal import look
from rtunnel.rtc.signaling.server import SignalServer
from tests.cluster.redis_server import RedisServer
from tests.cluster.world import LONG, RedisWorld
from tests.leftovers import TestLog
from tests.reverse.net import until
from tests.rtc.signaling.server_parts import SignalWorld, WebSocketPeer

SDP = {"sdp": {"type": "offer", "sdp": "v=0"}}
#: Leases end soon, but not if the machine is busy for a moment.
SOON = Times(lease=3.0, margin=0.5, renew_every=0.2, reply=600.0)


@pytest.fixture
def signaling(_nothing_left_behind: TestLog, own_world: RedisWorld) -> Iterator[SignalWorld]:
    """Servers, which end before their Redis."""
    signaling = SignalWorld(_nothing_left_behind)
    yield signaling
    pytest_twisted.blockon(Deferred.fromCoroutine(signaling.end()))


async def server_of(signaling: SignalWorld, world: RedisWorld, times: Any = LONG) -> SignalServer:
    server = await signaling.start(directory=world.build(times))
    await until(lambda: look(server)["ready"], "the directory is there")
    return server


async def at(signaling: SignalWorld, server: SignalServer, name: str, key: str = "") -> WebSocketPeer:
    signaling.server = server
    peer = await signaling.open()
    peer.put_text(json.dumps({"type": "register-host", "sender_id": name, "key": key}))
    await peer.is_alive()
    return peer


@pytest_twisted.ensureDeferred
async def test_across_nodes(signaling: SignalWorld, own_world: RedisWorld) -> None:
    one, two = await server_of(signaling, own_world), await server_of(signaling, own_world)
    host, client = await at(signaling, one, "host", "secret"), await at(signaling, two, "client")
    for number in range(20):
        client.put("offer" if not number else "candidate", "host", payload=number)
    assert [(await host.take())["payload"] for _ in range(20)] == list(range(20))
    host.put("answer", "client", payload=SDP)
    assert (await client.take())["type"] == "answer"
    client.put("offer", "host", payload=SDP)
    await host.take()
    again = await at(signaling, two, "host", "secret")
    await host.ends(1008)
    assert await client.take_error(about="host") == "'host' is gone"
    client.put("offer", "host", payload=SDP)
    assert (await again.take())["type"] == "offer"
    client.transport.abortConnection()
    assert await again.take_error(about="client") == "'client' is gone, and its offer with it"


@pytest_twisted.ensureDeferred
async def test_a_node_dies(signaling: SignalWorld, own_world: RedisWorld) -> None:
    one, two = await server_of(signaling, own_world, SOON), await server_of(signaling, own_world, SOON)
    await at(signaling, one, "host")
    client = await at(signaling, two, "client")
    await until(lambda: look(two)["nodes"] == 2, "both nodes")
    client.put("offer", "host", payload=SDP)
    await until(lambda: two.crossing and len(two.crossing.remotes), "the offer on its way")
    own_world.part(one.directory)
    assert await client.take_error(about="host") == "'host' is gone"
    await at(signaling, two, "host")


@pytest_twisted.ensureDeferred
async def test_redis_ends_and_comes_back_empty(
    signaling: SignalWorld, own_world: RedisWorld, own_redis: RedisServer
) -> None:
    one, two = await server_of(signaling, own_world), await server_of(signaling, own_world)
    host, client = await at(signaling, one, "host"), await at(signaling, two, "client")
    own_redis.kill()
    await until(lambda: look(one)["problems"] and look(two)["problems"], "no directory")
    client.put("offer", "host", payload=SDP)
    assert "the cluster's directory is away" in await client.take_error(about="host")
    own_redis.start()
    await until(lambda: look(one)["ready"] and look(two)["ready"], "the directory again")
    client.put("offer", "host", payload=SDP)
    assert (await host.take())["type"] == "offer"
