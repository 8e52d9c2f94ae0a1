"""Clients that would escape the revocation of their certificate, or of a CA that vouches for them."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor

from rtunnel.addresses import DialAddress
from rtunnel.reverse.client.tls_dialler import TlsDialler
from rtunnel.upkeep.log_limiter import MOST_ADMITTED
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.messages import Hello
from rtunnel.wire.tunnel_request import TunnelRequest
from tests.leftovers import LoggedError
from tests.reverse.net import HOST, Peer, until
from tests.tls.parts import Authority, Ends, with_version


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


@ensureDeferred
async def test_that_a_client_is_revoked_is_logged_even_if_it_has_used_up_its_share(
    authority: Authority, ends: Ends
) -> None:
    server = ends.start_server(authority.trusts(authority.server()))
    holder = authority.client()
    ends.start_client(authority.trusts(holder))
    await until(lambda: server.sessions)
    for _ in range(MOST_ADMITTED):
        server.log_limiter.warn("link {peer}: closed by {side}: {code}: {text}", admitted="laptop")
    authority.revoke(holder)
    await ends.lines.wait_for(r"\] link \S+ \(laptop\): closed by us: unauthorized: the certificate of .* is revoked")


@ensureDeferred
async def test_one_that_cannot_be_closed_does_not_save_the_others(
    authority: Authority, ends: Ends, flush_logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard goes on whatever happens, and so does the list of those to close."""
    server = ends.start_server(authority.trusts(authority.server()))
    holders = [authority.client(f"client {number}", file=f"client{number}") for number in range(3)]
    for holder in holders:
        ends.start_client(authority.trusts(holder))
    await until(lambda: len(server.sessions) == 3)
    first = next(iter(server.sessions))
    monkeypatch.setattr(first, "expel", lambda *_: 1 / 0)
    authority.revoke(*holders)
    await until(lambda: len(server.sessions) == 1)
    assert list(server.sessions) == [first]
    await ends.lines.wait_for("guard has failed and goes on; please report this: ZeroDivisionError.* at guard.py")
    assert flush_logged_errors(LoggedError)
    # It looks again.
    await ends.lines.wait_for("guard works again")


@ensureDeferred
async def test_files_that_no_library_reads_do_not_end_the_guard(authority: Authority, ends: Ends) -> None:
    server = ends.start_server(authority.trusts(authority.server()))
    holder = authority.client()
    ends.start_client(authority.trusts(holder))
    await until(lambda: server.sessions)
    good = authority.cert.read_bytes()
    authority.cert.write_text(with_version(authority.certificate, 7))
    await ends.lines.wait_for("the TLS files cannot be used, and those from before stay in use")
    authority.cert.write_bytes(good)
    authority.revoke(holder)
    await ends.lines.wait_for("closed by us: unauthorized: the certificate of 'laptop' is revoked")
