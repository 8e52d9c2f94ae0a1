"""A client asks again when its offer leads to nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from rtunnel.addresses import ListenAddress
from rtunnel.rtc import client
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.settings import ClientSettings, ForwardSettings, IceSettings, SignalClientSettings, SignalUrl
from rtunnel.wire.webrtc.signaling import OFFER
from tests.leftovers import TestLog
from tests.rtc.signaling.link_parts import OwnServer, World


@pytest.fixture
def world(_nothing_left_behind: TestLog) -> Iterator[World]:
    from twisted.internet import reactor

    world = World(reactor, _nothing_left_behind)
    yield world
    pytest_twisted.blockon(Deferred.fromCoroutine(world.stop_all()))


def start(world: World) -> OwnServer:
    """A client, and a server that passes nothing on: offers get no answer."""
    server: OwnServer = world.start(OwnServer(world.reactor))
    url = SignalUrl(f"ws://127.0.0.1:{server.port}", False, "127.0.0.1", server.port)
    settings = ClientSettings(
        id="cottage",
        signal=SignalClientSettings(url, reconnect_min=0.02, reconnect_max=0.04),
        ice=IceSettings(interfaces=("127.0.0.1",)),
        forwards=(ForwardSettings("", ListenAddress.parse("127.0.0.1:0")),),
    )
    world.start(RtcClient(world.reactor, settings))
    return server


def askers(server: OwnServer) -> list[str]:
    """Who made the offers that came."""
    return [signal.sender_id for signal in server.received if signal.type == OFFER]


@pytest_twisted.ensureDeferred
async def test_an_offer_that_may_be_lost_with_signaling_is_made_again(world: World) -> None:
    server = start(world)
    await world.until(lambda: len(askers(server)) == 1, "an offer")
    server.cut_off()
    await world.until(lambda: len(askers(server)) == 2, "another offer")
    await world.lines.wait_for("host 'cottage' cannot be reached: signaling is lost; next attempt in ")
    assert world.lines.text.count("#info] connecting to host 'cottage'") == 1, "at once, and not with each attempt"


@pytest_twisted.ensureDeferred
async def test_after_a_loss_a_client_need_not_wait_for_its_id(world: World) -> None:
    server = start(world)
    await world.until(lambda: len(askers(server)) == 1, "an offer")
    server.cut_off()
    await world.until(lambda: len(askers(server)) == 2, "another offer")
    first, second = askers(server)
    assert first != second


@pytest_twisted.ensureDeferred
async def test_an_offer_that_gets_no_answer_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_TIMEOUT", 0.5)
    server = start(world)
    await world.until(lambda: len(askers(server)) == 2, "another offer")
    assert len(server.peers) == 1
    assert not server.gone
    await world.lines.wait_for("host 'cottage' cannot be reached: no answer within ")
