"""What becomes of a data connection with the certificate of its link."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.relay.dial import Dial
from rtunnel.reverse import public
from rtunnel.reverse.carriers import pool_size
from rtunnel.reverse.carriers.record_stream import RecordStream
from rtunnel.reverse.client import visits
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.upkeep import listening
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.data import Full
from tests.reverse.net import HOST, Peer, connect, turns, until
from tests.reverse.tls.data_connection_parts import MIB, Tunnel
from tests.tls.parts import Authority, Lines


@pytest.mark.parametrize("who", ["server", "client"])
@ensureDeferred
async def test_certificate_that_expires(tunnel: Tunnel, authority: Authority, who: str, lines: Lines) -> None:
    end = timedelta(seconds=4)
    if who == "client":
        tunnel.holder = authority.client(end=end)
    await tunnel.start(server=authority.server(end=end) if who == "server" else None)
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    name = "laptop" if who == "client" else "server"
    await lines.wait_for(f"closed by us: unauthorized: the certificate of '{name}' expired on ")
    await until(lambda: visitor.was_reset and peer.was_reset)
    await until(lambda: not tunnel.server.sessions)
    await tunnel.is_empty()


@ensureDeferred
async def test_client_that_has_lost_its_rights(tunnel: Tunnel, tmp_path: Path, lines: Lines) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop:\n")
    await tunnel.start({"admission": AdmissionSettings(clients)})
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    clients.write_text("phone:\n")
    await until(lambda: visitor.was_reset and peer.was_reset)
    await until(lambda: not tunnel.server.sessions)
    await tunnel.is_empty()


@ensureDeferred
async def test_revoked_client_loses_its_data_connections_too(tunnel: Tunnel, lines: Lines) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    tunnel.authority.revoke(tunnel.holder)
    await lines.wait_for("the certificate of 'laptop' is revoked")
    await until(lambda: visitor.was_reset and peer.was_reset)
    await until(lambda: not tunnel.server.sessions)
    await tunnel.is_empty()


@pytest.mark.parametrize("who", ["server", "client"])
@ensureDeferred
async def test_end_that_goes_down_lets_running_visitors_finish(tunnel: Tunnel, who: str) -> None:
    await tunnel.start(drain=20.0)
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    stopped = tunnel.ends.stop(getattr(tunnel, who))
    down = os.urandom(4 * MIB)
    peer.send(down)
    peer.close()
    finishing = until(lambda: visitor.eof)
    await finishing
    visitor.close()
    await stopped
    assert bytes(visitor.received) == down


@ensureDeferred
async def test_visitor_who_cannot_be_watched(tunnel: Tunnel) -> None:
    """The system has no more for it; the data connection takes the next one."""
    await tunnel.start()
    await until(lambda: len(tunnel.pool._idle) == pool_size.AT_FIRST)
    tunnel.server.poller = Full(poller := tunnel.server.poller)
    visitor = Peer()
    await connect(tunnel.port, visitor)
    await until(lambda: visitor.was_reset)
    await tunnel.is_empty()
    tunnel.server.poller = poller
    again = Peer()
    tunnel.visitors.append(again)
    await connect(tunnel.port, again)
    again.send(b"x")
    await until(lambda: any(peer.received == b"x" for peer in tunnel.service.peers))


@ensureDeferred
async def test_waiting_connections_are_kept_alive(tunnel: Tunnel) -> None:
    limits = LinkLimits(keepalive_interval=0.1, dead_after=0.5)
    await tunnel.start(limits=limits)
    await until(lambda: len(tunnel.pool._idle) == pool_size.AT_FIRST)
    kept = set(tunnel.pool._idle)
    await turns(800)
    assert set(tunnel.pool._idle) == kept
    visitor, peer = await tunnel.visit()
    visitor.send(b"x")
    await peer.has(b"x")
    await turns(800)
    assert not visitor.over
    visitor.close()
    peer.close()
    await tunnel.is_empty()


class HeldDial(Dial):
    """One to a service that takes its time, until :attr:`held` is empty again."""

    __slots__ = ()
    held: ClassVar[list[Callable[[], None]]] = []
    address: ClassVar[Any]

    def wait(self, sock: socket.socket) -> None:
        sock.close()
        self.held.append(lambda: self.start(*HeldDial.address))

    @classmethod
    def begin(cls, *address: Any) -> tuple[socket.socket, bool]:
        cls.address = address
        return socket.socket(), False


@pytest.mark.parametrize("relayed_by", ["kernel", "Twisted"])
@pytest.mark.parametrize("request_", [b"", b"request"])
@ensureDeferred
async def test_visitor_who_ends_before_the_service_is_there(
    tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch, request_: bytes, relayed_by: str
) -> None:
    monkeypatch.setattr(visits, "Dial", HeldDial)
    monkeypatch.setattr(visits, "begin", HeldDial.begin)
    await tunnel.start()
    if relayed_by == "Twisted":
        monkeypatch.setattr(visits, "has_socket", lambda _transport: False)
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    visitor.send(request_)
    visitor.half_close()
    await until(lambda: tunnel.client.visitors)
    (visit,) = tunnel.client.visitors._ends
    await until(lambda: visit.has_ended)
    start = HeldDial.held.pop()
    if relayed_by == "Twisted":
        tunnel.client.link.session.data._visits.dial_endpoint(visit)
    else:
        start()
    peer = await tunnel.service.peer()
    await until(lambda: peer.eof)
    assert bytes(peer.received) == request_
    answer = os.urandom(MIB)
    peer.send(answer)
    peer.close()
    await visitor.has(answer)
    await until(lambda: visitor.over)
    assert not visitor.was_reset
    await tunnel.is_empty()


@ensureDeferred
async def test_ends_whose_sockets_cannot_be_had(tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor and a service as below Twisted's TLS: Twisted has its part again."""
    monkeypatch.setattr(listening, "give_sockets", lambda _port, _factory: None)
    monkeypatch.setattr(public, "has_socket", lambda _transport: False)
    monkeypatch.setattr(visits, "has_socket", lambda _transport: False)
    tunnel.service.port = free_port()
    local = DialAddress.parse(f"localhost:{tunnel.service.port}")
    await tunnel.start(
        {"public_listen": ListenAddress.parse(f"{HOST}:0")},
        {"tunnels": (TunnelSettings(0, local),)},
    )
    tunnel.port = tunnel.server.shared._port.getHost().port
    visitor = Peer()
    tunnel.visitors.append(visitor)
    await connect(tunnel.port, visitor)
    sent, answer = os.urandom(MIB), os.urandom(3 * MIB)
    visitor.send(sent)
    peer = await tunnel.service.peer()
    assert [type(used) for used in tunnel.pool._used] == [RecordStream]
    await peer.has(sent)
    peer.send(answer)
    await visitor.has(answer)
    visitor.close()
    await peer.ends()
    peer.close()
    await tunnel.is_empty()
