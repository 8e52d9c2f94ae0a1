"""The signaling link at our own server: what one says, the other understands."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.logger import LogLevel

from rtunnel.addresses import ListenAddress
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.limits import TIMES
from rtunnel.rtc.signaling.server import SignalServer
from rtunnel.wire.webrtc.signaling import MAX_MESSAGE, Signal
from tests.rtc.signaling.link_parts import TOKEN, World
from tests.tls.parts import Authority


def serve(world: World, port: int = 0, times: Any = TIMES, **more: Any) -> tuple[SignalServer, int]:
    """A server, and its port."""
    settings = SignalSettings(ListenAddress.parse(f"127.0.0.1:{port}"), **more)
    server = world.start(SignalServer(world.reactor, settings, times))
    return server, int(server.listener.local_address.rpartition(":")[2])


async def up(world: World, port: int, identity: str = "cottage", **more: Any) -> Any:
    return await world.up(port, identity, path="/", **more)


@pytest_twisted.ensureDeferred
async def test_registered_when_up(world: World) -> None:
    server, port = serve(world)
    await up(world, port)
    await up(world, port, "7a1c", is_host=False)
    assert (server.switchboard.hosts, server.switchboard.clients) == (1, 1)


@pytest_twisted.ensureDeferred
async def test_a_client_may_have_nothing_to_say(world: World) -> None:
    _, port = serve(world, times=replace(TIMES, first_message=0.1, look_every=0.02))
    _, user = await up(world, port, "7a1c", is_host=False)
    host, _ = await up(world, port)
    await world.lines.wait_for("host 'cottage'.* registered")
    # Longer than the server waits for a first message: these round trips come after that.
    deadline = world.reactor.seconds() + 0.3
    count = 0
    while world.reactor.seconds() < deadline:
        assert host.send(Signal("candidate", count, "7a1c"))
        count += 1
        await world.until(lambda: len(user.signals) == count, "a message")  # noqa: B023
    assert (user.ups, user.downs) == (1, [])


@pytest_twisted.ensureDeferred
async def test_both_ways(world: World) -> None:
    _, port = serve(world)
    host, host_user = await up(world, port)
    client, client_user = await up(world, port, "7a1c", is_host=False)
    assert client.send(Signal("offer", {"sdp": 1}, "cottage"))
    await world.until(lambda: host_user.signals, "an offer at the host")
    assert host.send(Signal("answer", {"sdp": 2}, "7a1c"))
    await world.until(lambda: client_user.signals, "an answer at the client")
    assert host_user.signals == [Signal("offer", {"sdp": 1}, "cottage", "7a1c")]
    assert client_user.signals == [Signal("answer", {"sdp": 2}, "7a1c", "cottage")]


@pytest_twisted.ensureDeferred
async def test_nobody_of_that_name(world: World) -> None:
    _, port = serve(world)
    client, user = await up(world, port, "7a1c", is_host=False)
    assert client.send(Signal("offer", {"sdp": 1}, "cottage"))
    await world.until(lambda: user.signals, "an error")
    assert (user.signals[0].type, user.signals[0].sender_id) == ("error", "cottage")
    assert client.up


@pytest_twisted.ensureDeferred
async def test_the_largest_message(world: World) -> None:
    _, port = serve(world)
    host, _ = await up(world, port)
    client, user = await up(world, port, "7a1c", is_host=False)
    for size in range(MAX_MESSAGE, 0, -1):
        if host.send(Signal("answer", "x" * size, "7a1c")):
            break
    await world.until(lambda: user.signals, "it arrives")
    assert user.signals[0].payload == "x" * size
    assert MAX_MESSAGE - size < 100
    assert client.up


@pytest.mark.parametrize("is_host", [True, False], ids=["host", "client"])
@pytest_twisted.ensureDeferred
async def test_an_id_that_is_taken(world: World, is_host: bool) -> None:
    _, port = serve(world)
    holder, holder_user = await up(world, port)
    link, user = world.link(port, path="/", is_host=is_host)
    world.start(link)
    await world.until(lambda: len(world.attempts()) >= 3, "three attempts")
    assert not user.ups
    [said] = world.attempts(LogLevel.warn)
    assert re.fullmatch(r"cannot use signaling server \S+: the server says: the ID 'cottage' is in use", said["why"])
    assert (holder_user.ups, holder_user.downs) == (1, [])
    await world.stop(holder)
    await world.until(lambda: user.ups, "the ID is free")


@pytest_twisted.ensureDeferred
async def test_an_id_whose_holder_is_dead(world: World) -> None:
    server, port = serve(world, times=replace(TIMES, answer=0.2, look_every=0.02))
    holder, holder_user = await up(world, port)
    # It reads nothing any more, as if its machine were off.
    holder.connection.transport.pauseProducing()
    _, user = await up(world, port)
    assert not world.attempts()
    assert server.switchboard.hosts == 1
    # It comes to life again, and finds that another has its place.
    holder.connection.transport.resumeProducing()
    await world.until(lambda: holder_user.downs, "it notices")
    await world.until(world.attempts, "an attempt")
    assert (user.ups, user.downs) == (1, [])


@pytest_twisted.ensureDeferred
async def test_tokens(world: World) -> None:
    _, port = serve(world, valid_tokens=("other", TOKEN))
    await up(world, port, token=TOKEN)
    link, user = world.link(port, "barn", path="/", token="wrong")
    world.start(link)
    assert (await world.refusal()).endswith(": it does not accept the token (401); see --token")
    assert not user.ups


@pytest_twisted.ensureDeferred
async def test_another_path(world: World) -> None:
    _, port = serve(world)
    link, _ = world.link(port)
    world.start(link)
    assert (await world.refusal()).endswith(": there is no signaling at this path (404); is the URL right?")


@pytest_twisted.ensureDeferred
async def test_tls_where_there_is_none(world: World) -> None:
    _, port = serve(world)
    link, _ = world.link(port, path="/", secure=True)
    world.start(link)
    await world.lines.wait_for(r"gets no WebSocket \(400\): it speaks TLS, which this server does not; write ws://")
    assert (await world.refusal()).endswith(": it speaks no TLS; did you mean ws://?")


@pytest_twisted.ensureDeferred
async def test_a_restart(world: World) -> None:
    server, port = serve(world)
    _, host_user = await up(world, port)
    _, client_user = await up(world, port, "7a1c", is_host=False)
    await world.stop(server)
    await world.until(lambda: host_user.downs and client_user.downs, "both are down")
    assert host_user.downs == ["it closed the connection (1001 the server is going down)"]
    server, _ = serve(world, port)
    await world.until(lambda: host_user.ups == client_user.ups == 2, "both are up again")
    assert (server.switchboard.hosts, server.switchboard.clients) == (1, 1)


@pytest_twisted.ensureDeferred
async def test_stopped(world: World) -> None:
    server, port = serve(world)
    for _number in range(3):
        link, _ = await up(world, port)
        await world.stop(link)
    assert not world.attempts()
    await world.until(lambda: server.switchboard.hosts == 0, "nobody")


@pytest_twisted.ensureDeferred
async def test_over_tls(world: World, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    holder = authority.server()
    _, port = serve(world, cert=holder.cert, key=holder.key)
    host, _ = await up(world, port, secure=True, ca_file=authority.cert)
    client, user = await up(world, port, "7a1c", is_host=False, secure=True, ca_file=authority.cert)
    assert host.send(Signal("answer", "x" * 60000, "7a1c"))
    await world.until(lambda: user.signals, "a message")
    await world.stop(client)
    await world.stop(host)
    assert not world.attempts()
