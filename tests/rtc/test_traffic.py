"""What host and client count of their peers, and what they say of it."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from rtunnel.control.rtc import client as client_view, host as host_view
from rtunnel.rtc.aiortc import peer_connection
from rtunnel.rtc.host import RtcHost
from tests.reverse.net import until
from tests.rtc.host_parts import ByHand
from tests.rtc.world import World, attempts


def totals(end: Any) -> dict[str, Any]:
    view = host_view if isinstance(end, RtcHost) else client_view
    found: dict[str, Any] = view.look(end)["peer_totals"]
    return found


@pytest_twisted.ensureDeferred
async def test_the_numbers_of_a_peer_and_of_those_that_are_gone(rtc: World) -> None:
    """The sums never go down."""
    server, echo = rtc.signal(), await rtc.echo()
    host, client = rtc.host(server, echo.port), rtc.client(server)
    await rtc.connected(client)
    visitor = await rtc.visitor(client)
    visitor.send(bytes(50_000))
    await until(lambda: len(visitor.received) == 50_000, "an echo")
    [at_host] = host_view.look(host)["peers"]
    at_client = client_view.look(client)["peer"]
    for peer in (at_host, at_client):
        assert 50_000 <= min(peer["bytes_sent"], peer["bytes_received"]) < 70_000
        assert 0 < peer["round_trip_ms"] < 10_000
        assert peer["lost_lately"] is not None
        assert peer["missed_lately"] is not None
    before = totals(host), totals(client)
    for total, peer in zip(before, (at_host, at_client), strict=True):
        assert total["connected"] == {"direct": 1, "relayed": 0}
        assert not any(total["failed"].values())
        assert total["bytes_sent"] >= peer["bytes_sent"]
    assert client.peer is not None
    client.peer.give_up("for a test")
    await until(lambda: totals(client)["connected"]["direct"] == 2, "another connection")
    await until(lambda: totals(host)["connected"]["direct"] == 2, "another connection at the host")
    visitor = await rtc.visitor(client)
    visitor.send(bytes(50_000))
    await until(lambda: len(visitor.received) == 50_000, "another echo")
    for end, total in zip((host, client), before, strict=True):
        now = totals(end)
        assert now["bytes_sent"] >= total["bytes_sent"] + 50_000
        assert all(now[key] >= value for key, value in total.items() if isinstance(value, int))
        assert not any(now["failed"].values())
    await rtc.stop(client)
    await until(lambda: not host.peers, "the client to be gone")
    assert totals(client)["bytes_sent"] >= 100_000
    assert totals(host)["bytes_received"] >= 100_000
    assert not any(totals(host)["failed"].values())


@pytest_twisted.ensureDeferred
async def test_a_host_that_does_not_exist(rtc: World) -> None:
    client = rtc.client(rtc.signal())
    await until(lambda: attempts(rtc) >= 3, "three attempts")
    failed = totals(client)["failed"]
    assert failed["signaling"] >= 2
    assert sum(failed.values()) == failed["signaling"]


@pytest_twisted.ensureDeferred
async def test_no_path(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host has a description, but nothing comes from there."""
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT", 0.2)
    host = rtc.host(rtc.signal(), (await rtc.echo()).port)
    await rtc.registered(host)
    peer = ByHand(host)
    monkeypatch.setattr(peer, "got", lambda signal: None)
    peer.connection.offer()
    await until(lambda: totals(host)["failed"]["path"] == 1, "the end of the attempt")
    assert totals(host)["connected"] == {"direct": 0, "relayed": 0}
    await peer.connection.close()
