"""A stream on a connection of its own, relayed in user space, keeps the promises of streams, plain and under TLS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure

from rtunnel.errors import Code
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.reverse.carriers.raw_stream import HIGH_WATER, RawStream
from rtunnel.reverse.public import Visitor
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.identity import Peer as Proved
from rtunnel.tls.policy import Role
from rtunnel.tls.transport import Secured, TlsTransport
from tests.relay.fakes import FakeSocket, Recorder
from tests.relay.stream_contract import BULK, End, StreamContract
from tests.reverse.net import HOST, QuietFactory, connect, reactor, turns, until
from tests.tls.parts import Authority, client_of, server_of


class Pairs:
    """Connections, each with a stream at both ends."""

    def __init__(self) -> None:
        self.lost: list[RawStream] = []
        self.streams: list[RawStream] = []
        self.listening: Any = None
        self._accepted: list[End] = []

    def end(self) -> End:
        user = Recorder()
        stream = RawStream(user, self.lost.append)
        self.streams.append(stream)
        return End(stream, user)

    def below(self, stream: RawStream, role: Role) -> Any:
        """The protocol of the TCP connection."""
        return stream

    async def start(self) -> None:
        factory = QuietFactory()
        factory.buildProtocol = self._accept  # type: ignore[method-assign,assignment]
        self.listening = await TCP4ServerEndpoint(reactor, 0, interface=HOST).listen(factory)

    def _accept(self, _address: Any) -> Any:
        end = self.end()
        self._accepted.append(end)
        return self.below(end.stream, Role.SERVER)

    async def open(self) -> tuple[End, End]:
        one, count = self.end(), len(self._accepted)
        await connect(self.listening.getHost().port, self.below(one.stream, Role.CLIENT))
        await until(lambda: len(self._accepted) > count)
        two = self._accepted[-1]
        await until(lambda: one.stream.connected and two.stream.connected)
        return one, two

    async def stop(self) -> None:
        await self.listening.stopListening()
        for stream in self.streams:
            if stream not in self.lost:
                stream.abort()
        await until(lambda: len(self.lost) == len(self.streams))


class _Above(Secured):
    def __init__(self, stream: RawStream) -> None:
        self._stream = stream

    def build_protocol(self, transport: TlsTransport, peer: Proved) -> IProtocol | None:
        return self._stream


class TlsPairs(Pairs):
    """The same under TLS."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self._credentials = {Role.SERVER: server_of(authority), Role.CLIENT: client_of(authority)}

    def below(self, stream: RawStream, role: Role) -> Any:
        return TlsTransport(TlsEngine(self._credentials[role]), role, _Above(stream), reactor, 10.0)


class RawStreamContract(StreamContract):
    async def open_stream(self, setting: Any) -> tuple[End, End]:
        pair: tuple[End, End] = await setting.open()
        return pair

    async def until(self, condition: Callable[[], object]) -> None:
        await until(condition)

    @ensureDeferred
    async def test_reset_ends_both_directions_with_the_reason(self, setting: Any) -> None:
        """There is no place for the reason."""
        for first in (0, 1):
            ends = await self.open_stream(setting)
            one, two = ends[first], ends[1 - first]
            one.stream.reset(Code.LIMIT, "too many")
            await self.until(lambda: two.user.told)  # noqa: B023
            assert two.user.told == ["reset"]
            assert two.user.reset is not None
            assert two.user.reset[0] == Code.CONNECTION_LOST
            assert one.user.told == [], "who resets knows"

    @ensureDeferred
    async def test_source_is_paused_and_resumed(self, setting: Any) -> None:
        """The kernel takes megabytes before a pause lasts."""
        one, two = await self.open_stream(setting)
        written = 0
        calm = 0
        while calm < 30:
            calm += 1
            while not one.user.paused:
                calm = 0
                one.stream.write(bytes(10_000))
                written += 10_000
                assert written < 40_000_000, "nobody says stop"
            await turns(1)
        two.read()
        await self.until(lambda: not one.user.paused)
        await self.until(lambda: len(two.user.received) == written)

    @ensureDeferred
    async def test_reset_overtakes_bytes_that_wait(self, setting: Any) -> None:
        """Who does not read sees it when it reads on."""
        one, two = await self.open_stream(setting)
        one.stream.write(bytes(BULK))
        await self.until(lambda: two.user.received)
        one.stream.reset(Code.CONNECTION_LOST, "the socket broke")
        two.read()
        await self.until(lambda: two.user.told)
        assert two.user.told == ["reset"]
        assert len(two.user.received) < BULK

    @ensureDeferred
    async def test_end_after_both_ends_is_no_reset(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        for end in (one, two):
            end.read()
            end.stream.write(b"all")
            end.stream.finish()
        await self.until(lambda: len(setting.lost) == 2)
        assert one.user.told == two.user.told == ["finished"]
        assert one.user.received == two.user.received == b"all"

    @ensureDeferred
    async def test_what_waits_in_memory_is_bounded(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        one.stream.write(bytes(BULK))
        await self.until(lambda: not two.stream._reading)
        assert len(two.user.received) <= HIGH_WATER + 65536

    @ensureDeferred
    async def test_abort_tells_both_users(self, setting: Any) -> None:
        one, two = await self.open_stream(setting)
        one.stream.abort()
        await self.until(lambda: one.user.told and two.user.told)
        assert one.user.told == two.user.told == ["reset"]


class TestPlain(RawStreamContract):
    @pytest_twisted.async_yield_fixture
    async def setting(self) -> Any:
        pairs = Pairs()
        await pairs.start()
        yield pairs
        await pairs.stop()


class TestTls(RawStreamContract):
    @pytest_twisted.async_yield_fixture
    async def setting(self, tmp_path: Path) -> Any:
        pairs = TlsPairs(Authority(tmp_path / "pki"))
        await pairs.start()
        yield pairs
        await pairs.stop()


def test_visitor_that_left_while_it_waited_is_gone() -> None:
    """Behind TLS of Twisted's, where only its end knows: nothing would ever end its stream, or give back its place."""
    lost: list[SocketEnd] = []
    end = SocketEnd(lambda _end: None, lost.append)
    end.makeConnection(FakeSocket())
    visitor = Visitor(IPv4Address("TCP", "192.0.2.1", 5000), end, lost.append)
    assert visitor.take_socket() is None
    end.connectionLost(Failure(ConnectionDone()))
    assert lost == [end]
    with pytest.raises(ValueError, match="gone"):
        visitor.take_socket()
