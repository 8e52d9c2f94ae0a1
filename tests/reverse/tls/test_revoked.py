"""Clients that would escape the revocation of their certificate, or of a CA that vouches for them."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.reverse.client.tls_dialler import TlsDialler
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.messages import Hello, TunnelRequest
from tests.reverse.net import HOST, Peer, until
from tests.tls.parts import Authority, Ends


class Client(Peer):
    """A client by hand."""

    identity: Any = None

    def connectionMade(self) -> None:
        pass

    def ask(self) -> None:
        link = ClientLink(Hello("0" * 32, 1 << 18), LinkLimits(), 0.0)
        link.request_tunnel(0, TunnelRequest(0, "here"))
        self.transport.writeSequence(link.data_to_send(1 << 16, 0.0))


@ensureDeferred
async def test_revoked_before_it_says_what_it_wants(authority: Authority, ends: Ends) -> None:
    ends.start_server(authority.trusts(authority.server()))
    holder = authority.client()
    dialler = TlsDialler(reactor, authority.trusts(holder, server_name=HOST), 5.0)
    endpoint = DialAddress.parse(f"{HOST}:{ends.control}").endpoint(reactor, 5.0)
    client = await dialler.connect(endpoint, Client)
    await ends.lines.wait_for("connection from .* to the control port")
    authority.revoke(holder)
    await ends.lines.wait_for("connection from .* closed: the certificate of 'laptop' is revoked")
    await client.ends()


@pytest.mark.parametrize("speaks", [True, False])
@ensureDeferred
async def test_a_link_that_resumes_a_session(speaks: bool, authority: Authority, ends: Ends) -> None:
    server = ends.start_server(authority.trusts(authority.server()), public_listen=ListenAddress.parse(f"{HOST}:0"))
    dialler = TlsDialler(reactor, authority.trusts(authority.client(), server_name=HOST), 5.0)
    endpoint = DialAddress.parse(f"{HOST}:{ends.control}").endpoint(reactor, 5.0)
    first = await dialler.connect(endpoint, Client)
    await until(lambda: first.transport)
    try:
        first.ask()
        await until(lambda: first.count)
        assert len(server.sessions) == 1
        second = await dialler.connect_data(endpoint, Client)
        await until(lambda: second.transport)
        assert second.transport.is_resumed
        if speaks:
            second.ask()
        await ends.lines.wait_for("it resumes a TLS session for a link, which needs a whole handshake")
        await second.ends()
        assert len(server.sessions) == 1
    finally:
        first.abort()
