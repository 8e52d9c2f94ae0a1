"""Sockets under TLS, relayed as plain ones are: bytes, ends and resets, whatever the network does to the records.

left <-> relay <-> TLS <- the test's network -> TLS <-> relay <-> right
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

import pytest
import pytest_twisted
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay import direct, pipes
from rtunnel.relay.direct import DirectRelay
from rtunnel.relay.sockets import close_socket
from rtunnel.reverse.carriers.sockets import adopt
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.openssl import RECORD
from rtunnel.tls.socket import TlsSocket
from tests.patience import PATIENCE
from tests.relay.turns import Far, Turns, connected, random_bytes
from tests.tls.parts import Authority, client_of, server_of

SIDES = pytest.mark.parametrize("side", ["left", "right"])
#: More than the kernel keeps for the four connections.
TOO_MUCH = 48 << 20


@pytest.fixture(params=["running", "epoll watch"])
def turns(request: pytest.FixtureRequest) -> Iterator[Turns]:
    name, _, watch = request.param.partition(" ")
    turns = Turns(name, bool(watch))
    yield turns
    turns.close()


def proved(authority: Authority) -> tuple[TlsEngine, TlsEngine]:
    """Two engines whose handshake is over, and its tickets read."""
    server, client = TlsEngine(server_of(authority)), TlsEngine(client_of(authority))
    client.start()
    while client.session is None:
        server.receive(client.output())
        client.receive(server.output())
    assert server.peer is not None
    return server, client


class Cable:
    """The network between two TCP ends.

    :ivar most: bytes that it carries in one step, each way; 0: it stands still.
    :ivar seen: what it has carried, each way.
    """

    def __init__(self, one: socket.socket, other: socket.socket) -> None:
        for sock in (one, other):
            sock.setblocking(False)
        self._ways = [(one, other), (other, one)]
        self._held = {one: b"", other: b""}
        self.most = 1 << 18
        self.seen = {one: bytearray(), other: bytearray()}
        self.moved = 0
        self.spoil = False

    def step(self) -> None:
        for source, target in list(self._ways):
            with suppress(BlockingIOError):
                try:
                    self._carry(source, target)
                except ConnectionError:
                    self._ways.clear()
                    for sock in (source, target):
                        close_socket(sock, reset=True)
                    return

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        held = self._held[source]
        if not held and self.most:
            held = source.recv(self.most)
            if not held:
                self._ways.remove((source, target))
                target.shutdown(socket.SHUT_WR)
                return
            if self.spoil:
                held = held[:-1] + bytes([held[-1] ^ 1])
            self.seen[source] += held if len(self.seen[source]) < 1 << 20 else b""
        self._held[source] = held
        if held:
            count = target.send(held)
            self.moved += count
            self._held[source] = held[count:]

    def close(self) -> None:
        for sock in self._held:
            sock.close()


class Rig:
    """The whole way, with both far ends and the network in the test's hands."""

    def __init__(self, turns: Turns, authority: Authority, buffers: int = 0, kind: type[TlsSocket] = TlsSocket) -> None:
        self.turns = turns
        near, here = connected("tcp", buffers)
        far, there = connected("tcp", buffers)
        self.cable = Cable(here, there)
        self.fars: list[Any] = []
        self.relays: list[DirectRelay] = []
        self.ends: list[DirectRelay] = []
        for sock, engine in zip((near, far), proved(authority), strict=True):
            sock.setblocking(False)
            outer, inner = connected("tcp", buffers)
            inner.setblocking(False)
            self.fars.append(Far(outer))
            self.relays.append(DirectRelay(turns.relays, inner, kind(sock, engine), self.ends.append))
        self.left, self.right = self.fars
        for relay in self.relays:
            relay.start()

    def far_ends(self, side: str) -> tuple[Far, Far]:
        return (self.left, self.right) if side == "left" else (self.right, self.left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for relay in self.relays:
            relay.abort()
        for far in self.fars:
            far.socket.close()
        self.cable.close()
        assert len(self.ends) == 2

    async def until(self, condition: Any) -> None:
        await self.turns.until(condition, *self.fars, self.cable)  # type: ignore[arg-type]

    async def settle(self) -> None:
        await self.turns.settle(*self.fars, self.cable)  # type: ignore[arg-type]

    async def until_over(self) -> None:
        await self.until(lambda: len(self.ends) == 2 and all(far.is_over for far in self.fars))


@pytest.mark.parametrize("size", [0, 1, 5000, RECORD, RECORD + 1, 3_000_000])
@pytest_twisted.ensureDeferred
async def test_bytes_and_ends_both_ways(turns: Turns, authority: Authority, size: int) -> None:
    with Rig(turns, authority) as rig:
        there, back = random_bytes(size, 1), random_bytes(size, 2)
        rig.left.send(there, end=True)
        rig.right.send(back, end=True)
        await rig.until_over()
        assert rig.right.got(there)
        assert rig.left.got(back)
        assert rig.left.ended
        assert rig.right.ended


@pytest.mark.parametrize("gathered", [False, True])
@pytest_twisted.ensureDeferred
async def test_end_that_was_read_before_there_was_a_relay(turns: Turns, authority: Authority, gathered: bool) -> None:
    """No system tells of it again; *gathered*: the relay has read it itself, with what was there already."""
    outer, inner = connected("tcp")
    near, far = connected("tcp")
    for sock in (inner, near, far):
        sock.setblocking(False)
    client = Far(outer)
    one, other = (TlsSocket(sock, engine) for sock, engine in zip((near, far), proved(authority), strict=True))
    other.send(b"request")
    other.shutdown(socket.SHUT_WR)
    first = one.recv(100)
    assert first == b"request"
    if not gathered:
        assert one.recv(100) == b""
    ends: list[DirectRelay] = []
    relay = DirectRelay(turns.relays, one, inner, ends.append, to_right=first)
    relay.start()
    await turns.until(lambda: client.ended, client)
    assert bytes(client.kept) == b"request"
    client.send(b"answer", end=True)
    await turns.until(lambda: ends, client)
    assert other.recv(100) == b"answer"
    assert other.recv(100) == b""
    other.close()
    outer.close()


@SIDES
@pytest_twisted.ensureDeferred
async def test_half_close_of_one_side_leaves_the_other_direction(turns: Turns, authority: Authority, side: str) -> None:
    with Rig(turns, authority) as rig:
        asking, answering = rig.far_ends(side)
        asking.send(b"request", end=True)
        await rig.until(lambda: answering.ended)
        assert bytes(answering.kept) == b"request"
        answer = random_bytes(2_000_000)
        answering.send(answer)
        await rig.until(lambda: asking.got(answer))
        assert not asking.ended
        assert not rig.ends
        answering.send(b"", end=True)
        await rig.until_over()
        assert asking.ended


@pytest.mark.parametrize("most", [1, 7, 1000])
@pytest_twisted.ensureDeferred
async def test_records_that_come_in_pieces(turns: Turns, authority: Authority, most: int) -> None:
    with Rig(turns, authority) as rig:
        rig.cable.most = most
        data = random_bytes(300 * most)
        rig.left.send(data, end=True)
        rig.right.send(data[::-1], end=True)
        await rig.until_over()
        assert rig.right.got(data)
        assert rig.left.got(data[::-1])


@pytest.mark.parametrize("seed", range(6))
@pytest_twisted.ensureDeferred
async def test_chunks_of_any_size_at_any_pace(turns: Turns, authority: Authority, seed: int) -> None:
    chance = random.Random(seed)
    buffers = chance.choice([0, 16384, 65536])
    # A window below a segment's size moves about 30 KiB in 200 ms on loopback.
    largest = 15 if buffers == 16384 else 19
    with Rig(turns, authority, buffers=buffers) as rig:
        sent: dict[Far, bytearray] = {rig.left: bytearray(), rig.right: bytearray()}
        for _ in range(60):
            far = chance.choice(rig.fars)
            chunk = chance.randbytes(int(2 ** chance.uniform(0, largest)))
            far.send(chunk)
            sent[far] += chunk
            rig.cable.most = chance.choice([0, 3, 1000, 20000, 1 << 18])
            for each in rig.fars:
                each.reads = chance.choice([0, 1, 1000, 1 << 18, 1 << 18])
            for _ in range(chance.randrange(10)):
                for step in (*rig.fars, rig.cable):
                    step.step()
                await turns.turn()
        rig.cable.most = 1 << 18
        for far in rig.fars:
            far.reads = 1 << 18
            far.send(b"", end=True)
        await rig.until_over()
        assert rig.right.got(bytes(sent[rig.left]))
        assert rig.left.got(bytes(sent[rig.right]))


@pytest_twisted.ensureDeferred
async def test_nothing_is_left_behind_in_a_record(turns: Turns, authority: Authority) -> None:
    """No event would tell of it: whatever the sizes, all of it comes although nothing comes behind it."""
    with Rig(turns, authority) as rig:
        total = 0
        for size in (RECORD, 4 * RECORD, 4 * RECORD - 1, 4 * RECORD + 1, 65536 + 100, RECORD + 3, 5):
            rig.left.send(random_bytes(size))
            total += size
            await rig.until(lambda: rig.right.received == total)  # noqa: B023


@SIDES
@pytest.mark.parametrize("records", [1, 2, 3, 4])
@pytest_twisted.ensureDeferred
async def test_end_that_comes_with_full_records(turns: Turns, authority: Authority, side: str, records: int) -> None:
    """It is read along with them, and then the network has nothing left to tell of."""
    with Rig(turns, authority) as rig:
        asking, answering = rig.far_ends(side)
        rig.cable.most = 0
        asking.send(bytes(records * RECORD), end=True)
        await rig.settle()
        rig.cable.most = 1 << 18
        await rig.until(lambda: answering.ended)
        assert answering.received == records * RECORD
        answering.send(b"answer", end=True)
        await rig.until_over()
        assert bytes(asking.kept) == b"answer"


@pytest.mark.parametrize("read", [False, True])
@pytest_twisted.ensureDeferred
async def test_end_that_came_before_the_relay(turns: Turns, authority: Authority, read: bool) -> None:
    """Somebody has read it, or the relay does with the first bytes."""
    ends: list[DirectRelay] = []
    (near, far), (outer, inner) = connected("tcp"), connected("tcp")
    for sock in (near, far):
        sock.setblocking(False)
    mine, theirs = (TlsSocket(*pair) for pair in zip((near, far), proved(authority), strict=True))
    right = Far(outer)
    theirs.shutdown(socket.SHUT_WR)
    await turns.until(lambda: select.select([near], [], [], 0)[0])
    if read:
        assert mine.recv(RECORD) == b""
    relay = DirectRelay(turns.relays, mine, inner, ends.append, to_right=b"" if read else b"request")
    relay.start()
    await turns.until(lambda: right.ended, right)
    assert bytes(right.kept) == (b"" if read else b"request")
    right.send(b"", end=True)
    await turns.until(lambda: ends == [relay], right)
    theirs.close()
    outer.close()


def test_one_read_does_not_go_on_for_as_long_as_the_other_end_likes(authority: Authority) -> None:
    """What is no data, a ticket here, costs work, and may come without end: others have their turn behind each."""
    server, client = TlsEngine(server_of(authority)), TlsEngine(client_of(authority))
    client.start()
    while server.peer is None:
        server.receive(client.output())
        if server.peer is None:
            client.receive(server.output())
    near, far = connected("tcp")
    near.setblocking(False)
    server.send(b"data")
    far.sendall(server.output())
    mine = TlsSocket(near, client)
    in_vain = 0
    while select.select([near], [], [], 10)[0]:
        try:
            assert mine.recv(RECORD) == b"data"
        except BlockingIOError:
            in_vain += 1
        else:
            break
    assert in_vain >= 1
    mine.close()
    far.close()


class Narrow(TlsSocket):
    """There is no room for a goodbye while :attr:`is_full`."""

    is_full = True

    def shutdown(self, how: int) -> None:
        if self.is_full:
            raise BlockingIOError
        super().shutdown(how)


@pytest.mark.parametrize("behind", [False, True])
@SIDES
@pytest_twisted.ensureDeferred
async def test_end_that_has_to_wait_for_room(turns: Turns, authority: Authority, side: str, behind: bool) -> None:
    """The other direction goes on meanwhile, or ends."""
    with Rig(turns, authority, kind=Narrow) as rig:
        asking, answering = rig.far_ends(side)
        relay = rig.relays[rig.fars.index(asking)]
        narrow: Any = relay._right.socket
        rig.relays[rig.fars.index(answering)]._right.socket.is_full = False  # type: ignore[attr-defined]
        asking.send(b"request", end=True)
        await rig.until(lambda: relay._right.ending)
        answering.send(b"answer", end=behind)
        await rig.until(lambda: asking.received)
        await rig.settle()
        assert asking.ended == behind
        assert not answering.ended
        assert not rig.ends
        narrow.is_full = False
        await rig.until(lambda: answering.ended)
        answering.send(b"", end=not behind)
        await rig.until_over()
        assert bytes(answering.kept) == b"request"
        assert bytes(asking.kept) == b"answer"
        assert asking.ended


def test_goodbye_to_a_full_socket(authority: Authority) -> None:
    near, far = connected("tcp", 16384)
    near.setblocking(False)
    engine, _ = proved(authority)
    mine = TlsSocket(near, engine)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += near.send(bytes(1000))
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            mine.shutdown(socket.SHUT_WR)
    while filled:
        filled -= len(far.recv(filled))
    mine.shutdown(socket.SHUT_WR)
    record = far.recv(1000)
    assert (record[0], len(record)) == (0x17, 24)
    mine.close()
    far.close()


@SIDES
@pytest_twisted.ensureDeferred
async def test_end_waits_for_what_a_slow_reader_has_not_taken(turns: Turns, authority: Authority, side: str) -> None:
    data = random_bytes(TOO_MUCH)
    with Rig(turns, authority) as rig:
        sending, slow = rig.far_ends(side)
        slow.reads = 0
        sending.send(data)
        await rig.settle()
        assert 0 < sending.sent < len(data)
        for relay in rig.relays:
            assert len(relay._left.pending) + len(relay._right.pending) <= 65536
        # The other direction is not held up by that.
        slow.send(b"still there")
        await rig.until(lambda: sending.received)
        sending.end_behind = True
        slow.reads = 1 << 18
        slow.send(b"", end=True)
        await rig.until_over()
        assert slow.got(data)


@pytest.mark.parametrize("phase", ["idle", "bulk", "full", "half-closed"])
@SIDES
@pytest_twisted.ensureDeferred
async def test_reset_goes_through(turns: Turns, authority: Authority, side: str, phase: str) -> None:
    with Rig(turns, authority) as rig:
        gone, other = rig.far_ends(side)
        if phase == "bulk":
            other.send(bytes(64 << 20))
            await rig.until(lambda: gone.received > 8 << 20)
        elif phase == "full":
            gone.reads = other.reads = 0
            gone.send(bytes(TOO_MUCH))
            other.send(bytes(TOO_MUCH))
            await rig.settle()
        elif phase == "half-closed":
            other.send(b"request", end=True)
            await rig.until(lambda: gone.ended)
        gone.reset()
        other.reads = 1 << 18
        await rig.until(lambda: len(rig.ends) == 2 and other.is_over)
        assert isinstance(other.error, ConnectionResetError)


@pytest.mark.parametrize("how", ["end", "reset"])
@SIDES
@pytest_twisted.ensureDeferred
async def test_network_that_ends_without_a_goodbye(turns: Turns, authority: Authority, side: str, how: str) -> None:
    """That TCP ends is nothing that the other end has said."""
    with Rig(turns, authority) as rig:
        rig.left.send(b"not all")
        rig.right.send(b"not all")
        await rig.until(lambda: rig.left.received and rig.right.received)
        sock = next(iter(rig.cable._held)) if side == "left" else list(rig.cable._held)[1]
        rig.cable._ways.clear()
        if how == "end":
            sock.shutdown(socket.SHUT_WR)
        else:
            close_socket(sock, reset=True)
        cut, _ = rig.far_ends(side)
        await rig.until(lambda: cut.is_over)
        assert isinstance(cut.error, ConnectionResetError)


@pytest_twisted.ensureDeferred
async def test_network_that_spoils_a_byte(turns: Turns, authority: Authority) -> None:
    with Rig(turns, authority) as rig:
        rig.left.send(b"first")
        await rig.until(lambda: rig.right.received)
        rig.cable.spoil = True
        rig.left.send(b"second")
        await rig.until(lambda: len(rig.ends) == 2 and rig.left.is_over and rig.right.is_over)
        assert bytes(rig.right.kept) == b"first"
        assert isinstance(rig.right.error, ConnectionResetError)
        assert isinstance(rig.left.error, ConnectionResetError)


@pytest.mark.parametrize("how", ["cut", "spoilt"])
def test_alert_is_no_goodbye(authority: Authority, how: str) -> None:
    """An end that finds the records broken says so before it closes. What it has sent before is not the whole."""
    near, far = connected("tcp")
    near.setblocking(False)
    mine, theirs = (TlsSocket(sock, engine) for sock, engine in zip((near, far), proved(authority), strict=True))
    theirs.send(b"not all")
    if how == "cut":
        mine.cut()
    else:
        near.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ConnectionResetError):
        theirs.recv(RECORD)
    assert select.select([near], [], [], PATIENCE)[0]
    assert mine.recv(RECORD) == b"not all"
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            mine.recv(RECORD)
    mine.close()
    theirs.close()


@pytest.mark.parametrize("how", ["alert", "goodbye", "reset"])
@pytest_twisted.ensureDeferred
async def test_cut_that_the_other_end_answers(
    turns: Turns, authority: Authority, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is nothing more to wait for."""
    monkeypatch.setattr(direct, "PATIENCE_AFTER_CUT", float("inf"))
    (near, far), (outer, inner) = connected("tcp"), connected("tcp")
    for sock in (near, far, inner):
        sock.setblocking(False)
    mine, theirs = (TlsSocket(sock, engine) for sock, engine in zip((near, far), proved(authority), strict=True))
    ends: list[DirectRelay] = []
    relay = DirectRelay(turns.relays, mine, inner, ends.append)
    relay.start()
    Far(outer).reset()
    # The bare socket shows the end, and OpenSSL does not see it.
    await turns.until(lambda: select.select([far], [], [], 0)[0])
    await turns.settle()
    assert not ends
    if how == "alert":
        with pytest.raises(ConnectionResetError):
            theirs.recv(RECORD)
    elif how == "goodbye":
        theirs.shutdown(socket.SHUT_WR)
    else:
        close_socket(theirs, reset=True)
    await turns.until(lambda: ends)
    theirs.close()


@pytest_twisted.ensureDeferred
async def test_fault_of_one_connection_is_no_fault_of_another(turns: Turns, authority: Authority) -> None:
    """OpenSSL has one list of errors for all."""
    with Rig(turns, authority) as rig, Rig(turns, authority) as other:
        rig.cable.spoil = True
        rig.left.send(b"spoilt")
        await rig.until(lambda: len(rig.ends) == 2)
        other.left.send(b"whole", end=True)
        other.right.send(b"whole too", end=True)
        await other.until_over()
        assert other.right.ended
        assert other.left.ended


@pytest.mark.skipif(not pipes.HAVE_SPLICE, reason="there is no splice")
@SIDES
@pytest_twisted.ensureDeferred
async def test_no_pipe_leads_round_tls(turns: Turns, authority: Authority, side: str) -> None:
    """What the kernel could move by itself would be plain text to the network."""
    with Rig(turns, authority) as rig:
        sending, receiving = rig.far_ends(side)
        text = b"for nobody's eyes; " * 200_000
        sending.send(text, end=True)
        await rig.until(lambda: receiving.ended)
        assert receiving.got(text)
        assert all(len(seen) == 0 or b"nobody's eyes" not in seen for seen in rig.cable.seen.values())
        assert sum(map(len, rig.cable.seen.values())) > 500_000


@pytest_twisted.ensureDeferred
async def test_back_in_the_hands_of_its_engine(authority: Authority) -> None:
    """Where a socket is of no use after all."""
    near, far = connected("tcp")
    one, other = proved(authority)
    for sock in (near, far):
        sock.setblocking(False)
    mine, theirs = TlsSocket(near, one), TlsSocket(far, other)
    mine.send(b"by the socket")
    assert theirs.recv(100) == b"by the socket"
    sock, engine = theirs.leave()
    assert sock is far
    engine.send(b"by the engine")
    sock.send(engine.output())
    assert mine.recv(100) == b"by the engine"
    mine.send(bytes(100_000))
    received = b""
    while len(received) < 100_000:
        received += engine.receive(sock.recv(65536))
    assert received == bytes(100_000)
    with pytest.raises(BlockingIOError):
        mine.recv(100)
    engine.say_goodbye()
    sock.send(engine.output())
    assert mine.recv(100) == b""
    mine.close()
    sock.close()
    assert mine.fileno() == -1


@implementer(IHalfCloseableProtocol)
class Noted(Protocol):
    """Notes what it is told."""

    transport: Any

    def __init__(self) -> None:
        self.told: list[object] = []

    def dataReceived(self, data: bytes) -> None:
        self.told.append(data)

    def readConnectionLost(self) -> None:
        self.told.append("end")

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.told.append("lost")


@pytest.mark.parametrize("read", [False, True])
@pytest_twisted.ensureDeferred
async def test_back_in_the_hands_of_twisted(authority: Authority, read: bool) -> None:
    """*read*: with an end that was read before."""
    from twisted.internet import reactor

    turns = Turns("running")
    near, far = connected("tcp")
    for sock in (near, far):
        sock.setblocking(False)
    one, other = (TlsSocket(sock, engine) for sock, engine in zip((near, far), proved(authority), strict=True))
    other.send(b"request")
    other.shutdown(socket.SHUT_WR)
    first = one.recv(100) if read else b""
    assert not read or one.recv(100) == b""
    protocol = Noted()
    assert adopt(reactor, one, protocol, first)
    await turns.until(lambda: "end" in protocol.told)
    assert protocol.told == [b"request", "end"]
    protocol.transport.write(b"answer")
    protocol.transport.loseConnection()
    received = bytearray()

    def is_answered() -> bool:
        with suppress(BlockingIOError):
            received.extend(other.recv(100))
        return received == b"answer"

    await turns.until(is_answered)
    await turns.until(lambda: "lost" in protocol.told)
    other.close()


@pytest_twisted.ensureDeferred
async def test_back_in_the_hands_of_twisted_with_an_alert(authority: Authority) -> None:
    """It was read before, and is no goodbye."""
    from twisted.internet import reactor

    turns = Turns("running")
    near, far = connected("tcp")
    for sock in (near, far):
        sock.setblocking(False)
    one, other = (TlsSocket(sock, engine) for sock, engine in zip((near, far), proved(authority), strict=True))
    near.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ConnectionResetError):
        other.recv(RECORD)
    await turns.until(lambda: select.select([near], [], [], 0)[0])
    with pytest.raises(ConnectionResetError):
        one.recv(RECORD)
    protocol = Noted()
    assert adopt(reactor, one, protocol)
    other.close()
    await turns.until(lambda: "lost" in protocol.told)
    assert protocol.told == ["lost"]
