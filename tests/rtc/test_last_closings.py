"""Nobody says that it is all over while connections are still being closed: the process would end under their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.offers import Offer
from rtunnel.rtc.peers.client_peer import ClientPeer
from rtunnel.rtc.peers.host_peer import HostPeer
from rtunnel.rtc.settings import (
    ClientSettings,
    ForwardSettings,
    HostSettings,
    IceSettings,
    ServiceSettings,
    SignalClientSettings,
    SignalUrl,
)
from rtunnel.wire.webrtc.signaling import Description
from tests.leftovers import TestLog
from tests.rtc.signaling.link_parts import OwnServer, World

ICE = IceSettings(interfaces=("127.0.0.1",))


@pytest.fixture
def world(_nothing_left_behind: TestLog) -> Iterator[World]:
    from twisted.internet import reactor

    world = World(reactor, _nothing_left_behind)
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.stop_all()))


def signaling(world: World) -> SignalClientSettings:
    server: OwnServer = world.start(OwnServer(world.reactor))
    return SignalClientSettings(SignalUrl(f"ws://127.0.0.1:{server.port}", False, "127.0.0.1", server.port))


@pytest_twisted.ensureDeferred
async def test_of_a_client(world: World) -> None:
    forwards = (ForwardSettings("", ListenAddress.parse("127.0.0.1:0")),)
    settings = ClientSettings(id="cottage", signal=signaling(world), ice=ICE, forwards=forwards)
    client: RtcClient = world.start(RtcClient(world.reactor, settings))
    before = asyncio.all_tasks()
    peer = ClientPeer(client, "cottage")
    peer.connection.offer()
    peer.give_up("tired")
    assert asyncio.all_tasks() > before
    await client.close_links()
    assert asyncio.all_tasks() <= before


@pytest_twisted.ensureDeferred
async def test_of_a_host(world: World) -> None:
    services = (ServiceSettings("", DialAddress.parse("127.0.0.1:9")),)
    settings = HostSettings(id="cottage", signal=signaling(world), ice=ICE, services=services)
    host: RtcHost = world.start(RtcHost(world.reactor, settings))
    before = asyncio.all_tasks()
    peer = HostPeer(host, Offer("somebody", Description("")))
    peer.connection.offer()
    peer.give_up("tired")
    assert asyncio.all_tasks() > before
    await host.close_links()
    assert asyncio.all_tasks() <= before
