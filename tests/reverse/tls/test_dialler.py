"""Connections of the client under TLS, and what they leave."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from OpenSSL import SSL
from pytest_twisted import ensureDeferred
from twisted.internet.error import ConnectionRefusedError

from rtunnel.addresses import DialAddress
from rtunnel.errors import TlsFailed
from rtunnel.reverse.client.tls_dialler import TlsDialler
from tests.no_collector import no_collector
from tests.ports import free_port
from tests.reverse.net import HOST, reactor, turns, until
from tests.tls.parts import Authority, Ends


def connections() -> int:
    """How many of OpenSSL's there are in this process, at either end."""
    return sum(isinstance(one, SSL.Connection) for one in gc.get_objects())


@pytest.mark.parametrize("how", ["nobody listens", "the server is refused", "a link that is lost"])
@ensureDeferred
async def test_openssl_leaves_no_memory_to_the_garbage_collector(how: str, authority: Authority, ends: Ends) -> None:
    """A client that cannot reach its server tries for days, and the collector does not see how large they are."""
    with no_collector():
        before = connections()
        if how == "a link that is lost":
            server = ends.start_server(authority.trusts(authority.server()))
            client = ends.start_client(authority.trusts(authority.client()))
            await until(lambda: server.sessions)
            assert connections() == before + 2
            await ends.stop(client)
            await until(lambda: not server.sessions)
        else:
            name = "other.example"
            dialler: Any = TlsDialler(reactor, authority.trusts(authority.client(), server_name=name), 5.0)
            port = free_port()
            if how == "the server is refused":
                ends.start_server(authority.trusts(authority.server()))
                port = ends.control
            with pytest.raises((ConnectionRefusedError, TlsFailed)):
                await dialler.connect(DialAddress.parse(f"{HOST}:{port}").endpoint(reactor, 5.0), lambda: None)
        await turns()
        assert connections() == before
