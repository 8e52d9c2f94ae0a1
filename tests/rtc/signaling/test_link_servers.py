"""A link that may be to one of several servers."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from rtunnel.addresses import DialAddress
from rtunnel.rtc.settings import SignalClientSettings, SignalUrl
from rtunnel.rtc.signaling.link import NEXT_AFTER, SignalLink
from rtunnel.wire.webrtc.signaling import Signal, encode_signal
from tests.ports import free_port
from tests.rtc.signaling.link_parts import Peer, User, World, own


def one_of(*ports: int) -> SignalUrl:
    first, *others = (SignalUrl(f"ws://127.0.0.1:{port}", False, "127.0.0.1", port) for port in ports)
    return SignalUrl(first.text, False, first.host, first.port, others=tuple(others))


def settings(*ports: int, **more: Any) -> SignalClientSettings:
    return SignalClientSettings(one_of(*ports), reconnect_min=0.02, reconnect_max=0.04, **more)


def start(world: World, *ports: int, **more: Any) -> tuple[SignalLink, User]:
    user = User()
    link = SignalLink(world.reactor, settings(*ports, **more), "cottage", user, is_host=True)
    world.start(link)
    return link, user


@pytest_twisted.ensureDeferred
async def test_the_next_one_if_the_first_cannot_be_reached(world: World) -> None:
    server = own(world)
    link, user = start(world, free_port(), server.port)
    await world.until(lambda: user.ups, "the link is up")
    assert link.url == f"ws://127.0.0.1:{server.port}"
    # In the same attempt.
    assert not world.attempts()


@pytest_twisted.ensureDeferred
async def test_the_one_that_worked_last_comes_first(world: World) -> None:
    first, second = own(world), own(world)
    link, user = start(world, first.port, second.port)
    await world.until(lambda: user.ups == 1, "the link is up")
    assert first.peers
    await world.stop(first)
    await world.until(lambda: user.ups == 2, "the link is up at the other server")
    world.start(first)
    second.cut_off()
    await world.until(lambda: user.ups == 3, "the link is up again")
    assert second.peers
    assert not first.peers
    assert link.url == f"ws://127.0.0.1:{second.port}"


@pytest_twisted.ensureDeferred
async def test_one_that_lets_nobody_in_is_dialled_last(world: World) -> None:
    first, second = own(world, token="other"), own(world)
    _, user = start(world, first.port, second.port)
    await world.until(lambda: user.ups, "the link is up")
    (attempt,) = world.attempts()
    assert attempt["why"].startswith(f"cannot use signaling server ws://127.0.0.1:{first.port}: ")
    assert second.peers


@pytest_twisted.ensureDeferred
async def test_one_that_cannot_register_us(world: World) -> None:
    first, second = own(world), own(world)

    def refuse(peer: Peer) -> None:
        peer.sendMessage(encode_signal(Signal("error", "the cluster's directory is away", "", "cottage")))
        peer.sendClose(1000)

    first.opened = refuse
    first.answers_pings = False
    _, user = start(world, first.port, second.port)
    await world.until(lambda: user.ups, "the link is up")
    assert "the cluster's directory is away" in world.attempts()[0]["why"]
    assert second.peers


@pytest_twisted.ensureDeferred
async def test_none_can_be_reached(world: World) -> None:
    ports = free_port(), free_port()
    start(world, *ports)
    why = await world.refusal()
    assert why.startswith(f"cannot reach signaling servers ws://127.0.0.1:{ports[0]}, ws://127.0.0.1:{ports[1]}: ")


@pytest_twisted.ensureDeferred
async def test_a_server_more_disturbs_nobody(world: World) -> None:
    first, second = own(world), own(world)
    link, user = start(world, second.port)
    await world.until(lambda: user.ups, "the link is up")
    link.use(settings(first.port, second.port))
    assert link.up
    assert not user.downs
    link.use(settings(first.port))
    await world.until(lambda: user.ups == 2, "the link is up at the other server")
    assert first.peers
    assert not second.peers


@pytest_twisted.ensureDeferred
async def test_one_that_is_silent_is_not_waited_for_to_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    endpoint = DialAddress.endpoint

    def waiting(address: DialAddress, reactor: Any, timeout: float) -> Any:
        waits.append(timeout)
        return endpoint(address, reactor, timeout)

    monkeypatch.setattr(DialAddress, "endpoint", waiting)
    server = own(world)
    _, user = start(world, free_port(), server.port)
    await world.until(lambda: user.ups, "the link is up")
    assert waits == [NEXT_AFTER, SignalClientSettings(one_of(1)).connect_timeout]
