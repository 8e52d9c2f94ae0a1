"""A client of several servers over TLS: each is known by its own name, and what it has left by what it proved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.tls.policy import TlsSettings
from rtunnel.wire.limits import LinkLimits
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import Peer
from tests.tls.parts import Authority, EchoService, Ends, quiet

HOSTS = "127.0.0.1", "127.0.0.2"
#: A server that keeps what a lost link has left for longer than any test.
PATIENT = LinkLimits(dead_after=10 * PATIENCE)


class Two:
    """Two servers with certificates of their own, and a client of both."""

    def __init__(self, ends: Ends, authority: Authority, *hosts_of: str) -> None:
        self.ends = ends
        self.port = free_port()
        self.certificates = [
            authority.server(f"node{number}", [host], file=f"node{number}") for number, host in enumerate(hosts_of)
        ]
        self.servers = []
        for host, certificate in zip(HOSTS, self.certificates, strict=True):
            listen = ListenAddress.parse(f"{host}:0")
            self.servers.append(
                ends.start_server(
                    authority.trusts(certificate), control_listen=listen, public_interface=host, limits=PATIENT
                )
            )
        self.echo = EchoService(ends.reactor)
        ends.start(self.echo)

    def start_client(self, tls: TlsSettings, **more: Any) -> TunnelClient:
        one, other = (DialAddress.parse(server.control.local_address) for server in self.servers)
        tunnel = TunnelSettings(self.port, DialAddress.parse(f"127.0.0.1:{self.echo.port}"))
        settings = {"drain": 0.0, "check_services": False, "reconnect_min": 0.05, "reconnect_max": 0.1} | more
        client = TunnelClient(
            self.ends.reactor, ClientSettings(one, (tunnel,), tls=tls, other_servers=(other,), **settings)
        )
        self.ends.start(client)
        return client

    async def published(self, *hosts: str) -> None:
        for host in hosts:
            await self.ends.lines.wait_for(rf"{host}:{self.port} is published")


@pytest_twisted.ensureDeferred
async def test_each_by_its_own_name(authority: Authority, ends: Ends) -> None:
    two = Two(ends, authority, *HOSTS)
    two.start_client(authority.trusts(authority.client()), links=2)
    await two.published(*HOSTS)


@pytest.mark.parametrize("name", ["", "127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_one_by_the_name_of_the_other(name: str, authority: Authority, ends: Ends) -> None:
    """It has to be for its own name; or for the one that is given for all."""
    two = Two(ends, authority, HOSTS[0], HOSTS[0])
    client = two.start_client(authority.trusts(authority.client(), server_name=name), links=2)
    if name:
        await two.published(*HOSTS)
    else:
        await ends.lines.wait_for(r"cannot reach server 127.0.0.2:\d+: .* is for 127.0.0.1, not for 127.0.0.2")
        await two.published(HOSTS[0])
        assert len(client.links.sessions) == 1


@pytest_twisted.ensureDeferred
async def test_each_by_one_of_the_pins(authority: Authority, ends: Ends) -> None:
    two = Two(ends, authority, "a.example", "b.example")
    pins = frozenset(each.fingerprint for each in two.certificates)
    two.start_client(authority.trusts(authority.client(), pins=pins), links=2)
    await two.published(*HOSTS)


@pytest_twisted.ensureDeferred
async def test_node_whose_certificate_is_revoked_loses_what_it_kept(authority: Authority, ends: Ends) -> None:
    """Its streams go on when the link comes to another node, which has another certificate; but not for ever."""
    two = Two(ends, authority, *HOSTS)
    one, other = two.servers
    other.hello = replace(other.hello, session=one.hello.session)
    client = two.start_client(authority.trusts(authority.client()))
    await two.published(HOSTS[0])
    visitor: Any = await TCP4ClientEndpoint(ends.reactor, HOSTS[0], two.port).connect(quiet(Peer))
    visitor.send(b"before")
    await visitor.has(b"before")
    session: Any = client.link.session
    await ends.lines.until(lambda: session.link.direct_streams == 1, "a data connection")
    # As if it had fallen silent, so that the other one comes first.
    session.end_code = "timeout"
    session.drop()
    await two.published(HOSTS[1])
    visitor.send(b" and after")
    await visitor.has(b"before and after")
    assert client.link.session is not None
    assert len(client.link.session.servers) >= 2
    authority.revoke(two.certificates[0])
    await ends.lines.until(lambda: visitor.over, "the visitor is cut")
    assert client.link.session is not None
