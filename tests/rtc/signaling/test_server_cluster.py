"""Signaling servers over loopback that are one cluster."""

from __future__ import annotations

import pytest_twisted

from rtunnel.cluster.memory import MemoryDirectory, Shared
from rtunnel.control.rtc.signal import look
from rtunnel.rtc.signaling.party import TRY_AGAIN_LATER
from rtunnel.rtc.signaling.server import SignalServer
from tests.reverse.net import reactor, until
from tests.rtc.signaling.server_parts import SignalWorld, WebSocketPeer, short

SDP = {"sdp": {"type": "offer", "sdp": "v=0"}}


async def two(signaling: SignalWorld, **times: float) -> tuple[SignalServer, SignalServer]:
    shared = Shared()
    servers = [await signaling.start(short(**times), directory=MemoryDirectory(reactor, shared)) for _ in range(2)]
    await until(lambda: look(servers[0])["nodes"] == 2, "both nodes")
    return servers[0], servers[1]


async def at(signaling: SignalWorld, server: SignalServer, name: str) -> WebSocketPeer:
    signaling.server = server
    return await signaling.host(name)


@pytest_twisted.ensureDeferred
async def test_an_offer_across_nodes(signaling: SignalWorld) -> None:
    one, two_ = await two(signaling)
    host, client = await at(signaling, one, "host"), await at(signaling, two_, "client")
    client.put("offer", "host", payload=SDP)
    assert await host.take() == {"type": "offer", "payload": SDP, "target_id": "host", "sender_id": "client"}
    host.put("answer", "client", payload=SDP)
    assert (await client.take())["type"] == "answer"
    client.put("offer", "host", payload=SDP)
    await host.take()
    # It tells the others when it stops.
    await one.stopService()
    assert await client.take_error(about="host") == "'host' is gone"
    client.put("offer", "host", payload=SDP)
    assert await client.take_error(about="host") == "there is no 'host'"
    assert look(two_)["nodes"] == 1


@pytest_twisted.ensureDeferred
async def test_the_pong_does_not_wait_for_a_look(signaling: SignalWorld) -> None:
    one, _ = await two(signaling, look_every=3600.0)
    signaling.server = one
    peer = await signaling.open()
    pongs: list[bytes] = []
    peer.onPong = pongs.append  # type: ignore[method-assign, assignment]
    peer.put("register-host", sender="host")
    peer.sendPing(b"registered")
    await until(lambda: pongs == [b"registered"], "a pong")
    assert one.switchboard.hosts == 1


@pytest_twisted.ensureDeferred
async def test_an_id_in_use_at_another_node(signaling: SignalWorld) -> None:
    one, two_ = await two(signaling, answer=0.3)
    await at(signaling, one, "host")
    signaling.server = two_
    claimant = await signaling.open()
    claimant.put("register-host", sender="host")
    assert await claimant.take_error(about="host") == "the ID 'host' is in use"
    await claimant.ends(1008)
    signaling.server = one
    silent = await signaling.host("silent")
    silent.answers_pings = False
    signaling.server = two_
    claimant = await signaling.open()
    claimant.put("register-host", sender="silent")
    await claimant.is_alive()
    await silent.ends()
    assert two_.switchboard.hosts == 1


@pytest_twisted.ensureDeferred
async def test_the_directory_is_away(signaling: SignalWorld) -> None:
    shared = Shared()
    server = await signaling.start(directory=MemoryDirectory(reactor, shared))
    host, other = await signaling.host("host"), await signaling.host("other")
    shared.parted.add(server.directory.node)
    found = look(server)
    assert not found["ready"]
    assert found["problems"] == [
        "the cluster's directory is away, so nobody new can register here: it is parted from the others"
    ]
    peer = await signaling.open()
    peer.put("register-host", sender="new")
    assert (await peer.take_error(about="new")).startswith("the cluster's directory is away")
    await peer.ends(TRY_AGAIN_LATER)
    other.put("offer", "host", payload=SDP)
    assert (await host.take())["type"] == "offer"
    shared.parted.clear()
    assert look(server)["ready"]
    await signaling.host("new")


@pytest_twisted.ensureDeferred
async def test_alone_it_is_one_node(signaling: SignalWorld) -> None:
    server = await signaling.start()
    assert (look(server)["nodes"], look(server)["ready"]) == (1, True)
    assert server.crossing is None
