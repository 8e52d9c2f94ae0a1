"""A stream of a link, over a real connection, keeps the promises of all streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest_twisted
from twisted.internet.endpoints import TCP4ServerEndpoint

from rtunnel.reverse.carriers.link_protocol import LinkProtocol, LinkStream
from rtunnel.wire import events
from rtunnel.wire.client_link import ClientLink
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.messages import Hello
from rtunnel.wire.server_link import ServerLink, StreamIds
from rtunnel.wire.tunnel_request import TunnelRequest
from tests.plenty import plenty
from tests.relay.fakes import Recorder
from tests.relay.stream_contract import End, StreamContract
from tests.reverse.net import HOST, QuietFactory, connect, reactor, until

#: So that the contract's bulk is far more than a window, however long the connection lives.
LIMITS = LinkLimits(max_window=512 * 1024)


class Ends:
    """Both ends of one link."""

    def __init__(self) -> None:
        hellos = [Hello(session=digit * 32, initial_credit=LIMITS.initial_credit) for digit in "12"]
        self.opened: list[Any] = []
        server = ServerLink(hellos[0], LIMITS, reactor.seconds(), StreamIds())
        client = ClientLink(hellos[1], LIMITS, reactor.seconds())
        client.request_tunnel(0, TunnelRequest(8080, ":80"))
        memory = plenty(reactor)
        self.server: Any = LinkProtocol(server, reactor, memory)
        self.client: Any = LinkProtocol(client, reactor, memory)
        for protocol in (self.server, self.client):
            protocol._handlers |= {
                events.Established: lambda _event: None,
                events.TunnelRequested: lambda _event: None,
                events.StreamOpened: self._stream_opened,
            }

    def _stream_opened(self, event: events.StreamOpened) -> None:
        user = Recorder()
        self.opened.append(End(LinkStream(self.client, event.stream, user), user))


class TestLinkStream(StreamContract):
    @pytest_twisted.async_yield_fixture
    async def setting(self) -> Any:
        ends = Ends()
        factory = QuietFactory()
        factory.buildProtocol = lambda _address: ends.server  # type: ignore[method-assign,assignment]
        listening: Any = await TCP4ServerEndpoint(reactor, 0, interface=HOST).listen(factory)
        await connect(listening.getHost().port, ends.client)
        await listening.stopListening()
        await until(lambda: ends.server.link.is_extended and ends.client.link.is_extended)
        yield ends
        for protocol in (ends.client, ends.server):
            protocol.drop()
        await until(lambda: not ends.server.connected_now and not ends.client.connected_now)

    async def open_stream(self, setting: Any) -> tuple[End, End]:
        user, count = Recorder(), len(setting.opened)
        stream = setting.server.link.open_stream(0, "192.0.2.1:1")
        one = End(LinkStream(setting.server, stream, user), user)
        setting.server.flush()
        await until(lambda: len(setting.opened) > count)
        return one, setting.opened[-1]

    async def until(self, condition: Callable[[], object]) -> None:
        await until(condition)
