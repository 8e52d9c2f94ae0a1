"""TLS that ends on a stream: visitors are Python's ssl, and the carrier is in memory."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock

from rtunnel.acme.challenge import challenge_context
from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream
from rtunnel.relay.memory_stream import memory_streams
from rtunnel.tls import stream_end
from rtunnel.tls.hosts import Host, load_host_files
from rtunnel.tls.openssl import set_groups
from rtunnel.tls.stream_end import HANDSHAKE_TIMEOUT, LINGER, TlsEnd
from rtunnel.tls.turns import Turns
from tests.no_collector import Left, no_collector
from tests.relay.fakes import Recorder
from tests.tls.parts import Authority, Holder

NAME = "app.example.org"


class Visitor(Recorder):
    """The other end: TLS as a browser makes it."""

    def __init__(self, stream: Any, name: str | None = NAME, *alpn: str) -> None:
        super().__init__()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(alpn)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self.stream = stream
        self.plain = b""
        self.is_up = self.has_end = False
        self.error = ""
        self.piece = 1 << 30

    def start(self) -> None:
        self._turn()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.incoming.write(data)
        self._turn()

    def _turn(self) -> None:
        try:
            if not self.is_up:
                self.tls.do_handshake()
                self.is_up = True
            while data := self.tls.read(1 << 20):
                self.plain += data
            self.has_end = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.has_end = True
        except ssl.SSLError as error:
            self.error = str(error)
        self.flush()

    def flush(self) -> None:
        data = self.outgoing.read()
        for start in range(0, len(data), self.piece):
            self.stream.write(data[start : start + self.piece])

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()

    def say_goodbye(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()


class World:
    """A host, and what visits it."""

    def __init__(self, holder: Holder) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.host = Host(NAME)
        self.host.context = load_host_files(holder.cert, holder.key).context
        self.user = Recorder()
        self.served: list[tuple[str, str]] = []
        self.over: list[TlsEnd] = []
        self.plain: Any = None
        self.delivers = True

    def serve(self, stream: IStream, name: str, visitor: str) -> Recorder:
        self.plain = stream
        self.served.append((name, visitor))
        if self.delivers:
            self.user.delivers = stream
        return self.user

    def visit(self, name: str | None = NAME, *alpn: str, start: bool = True, window: int = 65536) -> Visitor:
        near, far = memory_streams(window)
        self.end = TlsEnd(self.host, self.serve, "192.0.2.1:4711", self.turns, self.clock, self.over.append)
        self.end.attach(near)
        near.user = self.end
        self.carrier = near
        visitor = Visitor(far, name, *alpn)
        visitor.delivers = far
        far.user = visitor
        if start:
            visitor.start()
        return visitor


@pytest.fixture
def holder(authority: Authority) -> Holder:
    return authority.server(hosts=[NAME], kind="ECDSA")


@pytest.fixture
def world(holder: Holder) -> World:
    return World(holder)


@pytest.mark.parametrize("piece", [1, 7, 1 << 30])
def test_bytes_pass_both_ways(piece: int, world: World) -> None:
    visitor = world.visit(start=False)
    visitor.piece = piece
    visitor.start()
    assert world.served == [(NAME, "192.0.2.1:4711")]
    assert (visitor.tls.version(), visitor.tls.selected_alpn_protocol()) == ("TLSv1.3", None)
    visitor.send(b"GET / HTTP/1.1\r\n")
    world.plain.write(b"HTTP/1.1 200 OK\r\n")
    assert world.user.received == b"GET / HTTP/1.1\r\n"
    assert visitor.plain == b"HTTP/1.1 200 OK\r\n"
    assert not world.clock.getDelayedCalls()


def test_http_is_agreed_on(world: World) -> None:
    assert world.visit(NAME, "h2", "http/1.1").tls.selected_alpn_protocol() == "http/1.1"
    assert world.visit(NAME, "h2").is_up


def test_post_quantum_keys_are_preferred_to_what_a_browser_has_guessed(world: World) -> None:
    """A browser that puts X25519 first is asked again."""
    near, far = memory_streams()
    seen = Recorder()
    far.user, seen.delivers = seen, far
    end = TlsEnd(world.host, world.serve, "192.0.2.1:4711", world.turns, world.clock, world.over.append)
    end.attach(near)
    near.user = end
    context = SSL.Context(SSL.TLS_METHOD)
    set_groups(context, ["X25519", "X25519MLKEM768"])
    client = SSL.Connection(context, None)
    client.set_connect_state()
    client.set_tlsext_host_name(NAME.encode())
    for _ in range(3):
        with suppress(SSL.WantReadError):
            client.do_handshake()
        with suppress(SSL.WantReadError):
            far.write(client.bio_read(65536))
        client.bio_write(seen.received)
        seen.chunks.clear()
    client.do_handshake()
    assert client.get_group_name() == "X25519MLKEM768"
    assert world.served


def test_without_a_name_there_is_a_certificate_too(world: World) -> None:
    assert world.visit(None).is_up
    assert world.served == [("", "192.0.2.1:4711")]


def test_the_user_decides_how_much_comes(world: World) -> None:
    world.delivers = False
    visitor = world.visit()
    for _ in range(40):
        visitor.send(bytes(16384))
    came = len(world.user.received)
    assert 32 * 1024 < came <= 64 * 1024, "no more than the carrier's window"
    assert visitor.paused
    world.user.delivers = world.plain
    world.plain.delivered(came)
    assert len(world.user.received) == 40 * 16384
    assert visitor.told[-1] == "resumed"
    assert world.carrier.waiting == 0


def test_bytes_are_reported_one_by_one(world: World) -> None:
    world.delivers = False
    visitor = world.visit()
    visitor.send(b"x" * 1000)
    assert world.carrier.waiting > 1000
    world.plain.delivered(400)
    assert 600 < world.carrier.waiting < 1000
    world.plain.delivered(600)
    assert world.carrier.waiting == 0


def test_the_visitor_decides_how_much_the_user_writes(world: World) -> None:
    visitor = world.visit()
    visitor.delivers = None
    written = 0
    while not world.user.paused:
        world.plain.write(bytes(16384))
        written += 16384
    assert written < 300_000
    visitor.delivers = visitor.stream
    visitor.stream.delivered(visitor.stream.waiting)
    assert world.user.told[-1] == "resumed"
    assert len(visitor.plain) == written


def test_a_user_who_comes_late_is_paused_too(world: World) -> None:
    visitor = world.visit(start=False)
    world.end.pause()
    visitor.start()
    assert world.user.paused


def test_each_direction_has_its_own_end(world: World) -> None:
    visitor = world.visit()
    visitor.send(b"all of it")
    visitor.say_goodbye()
    assert world.user.told == ["finished"]
    world.plain.write(b"the answer")
    world.plain.finish()
    assert (visitor.plain, visitor.has_end) == (b"the answer", True)
    assert world.over == [world.end]
    assert "reset" not in visitor.told


def test_the_user_ends_first(world: World) -> None:
    visitor = world.visit()
    world.plain.finish()
    world.plain.write(b"too late")
    assert visitor.has_end
    assert "finished" in visitor.told
    assert not world.over
    visitor.send(b"more")
    assert world.user.received == b"more"
    # Most programs just close then.
    visitor.stream.finish()
    assert world.user.told == ["finished"]
    assert world.over == [world.end]


def test_the_visitor_ends_in_good_order_behind_the_user(world: World) -> None:
    visitor = world.visit()
    world.plain.finish()
    assert visitor.has_end
    visitor.tls.unwrap()
    visitor.flush()
    assert world.user.told == ["finished"]
    assert world.over == [world.end]


def test_an_end_without_close_notify_is_no_end(world: World) -> None:
    visitor = world.visit()
    visitor.send(b"half of it")
    visitor.stream.finish()
    assert world.user.reset == (Code.CONNECTION_LOST, "the visitor's TLS has no end")
    assert world.over == [world.end]
    assert "reset" in visitor.told


def test_resets_pass_both_ways(world: World) -> None:
    visitor = world.visit()
    visitor.stream.reset(Code.CONNECTION_LOST, "gone")
    assert world.user.reset == (Code.CONNECTION_LOST, "gone")
    assert world.over == [world.end]
    visitor = world.visit()
    world.plain.write(b"a part")
    world.plain.reset(Code.LOCAL_UNREACHABLE, "refused", behind=True)
    assert visitor.reset == (Code.LOCAL_UNREACHABLE, "refused")
    assert (visitor.plain, visitor.has_end) == (b"a part", False)


def test_abort_tells_both(world: World) -> None:
    visitor = world.visit()
    world.end.abort()
    assert world.user.reset is not None
    assert visitor.reset is not None
    world.end.abort()
    assert world.over == [world.end]


def test_bytes_that_are_not_from_the_visitor_end_it(world: World) -> None:
    visitor = world.visit()
    visitor.stream.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert world.user.reset is not None
    assert world.user.reset[0] == Code.PROTOCOL
    assert "BAD_RECORD_MAC" in visitor.error.upper()


@pytest.mark.parametrize(
    ("name", "alpn", "has_certificate", "alert"),
    [
        ("www.example.org", (), True, "UNRECOGNIZED NAME"),
        ("app.example.org", (), False, "INTERNAL ERROR"),
        ("app.example.org", ("acme-tls/1",), True, "NO APPLICATION PROTOCOL"),
    ],
)
def test_refused_by_an_alert(name: str, alpn: tuple[str, ...], has_certificate: bool, alert: str, world: World) -> None:
    if not has_certificate:
        world.host.context = None
    visitor = world.visit(name, *alpn)
    assert alert in visitor.error.upper().replace("_", " ")
    assert not world.served
    assert not world.over
    visitor.stream.finish()
    assert world.over == [world.end]
    assert not world.clock.getDelayedCalls()


def test_whoever_does_not_close_behind_an_alert_is_cut_off(world: World) -> None:
    visitor = world.visit("www.example.org")
    visitor.stream.write(b"x" * 200_000)
    world.clock.advance(LINGER)
    assert visitor.reset is not None
    assert world.over == [world.end]


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"\0" * 100]
)
def test_garbage(garbage: bytes, world: World) -> None:
    visitor = world.visit(start=False)
    stream, seen = visitor.stream, Recorder()
    stream.user = seen
    stream.write(garbage)
    assert seen.told == ["finished"]
    assert seen.received == (b"\x15\x03\x03\x00\x02\x02\x32" if garbage[0] == 22 else b"")


def test_a_silent_visitor(world: World) -> None:
    visitor = world.visit(start=False)
    visitor.stream.write(b"\x16\x03\x01")
    world.clock.advance(HANDSHAKE_TIMEOUT - 1)
    assert not visitor.told
    world.clock.advance(1)
    assert visitor.reset == (Code.TIMEOUT, "the TLS handshake takes too long")
    assert world.over == [world.end]


def test_a_visitor_who_leaves_in_the_handshake(world: World) -> None:
    for leave in ("finish", "reset"):
        visitor = world.visit(start=False)
        visitor.stream.write(b"\x16\x03\x01")
        if leave == "finish":
            visitor.stream.finish()
        else:
            visitor.stream.reset(Code.CONNECTION_LOST, "gone")
        assert world.over.pop() is world.end
    assert not world.clock.getDelayedCalls()


def test_whoever_serves_may_fail(world: World, flush_logged_errors: Callable[..., Any]) -> None:
    def serve(_stream: IStream, _name: str, _visitor: str) -> Recorder:
        raise RuntimeError("a bug")

    world.serve = serve  # type: ignore[assignment,method-assign]
    visitor = world.visit()
    assert visitor.reset is not None
    assert world.over == [world.end]
    assert len(flush_logged_errors(RuntimeError)) == 1


def test_whoever_serves_may_refuse_at_once(world: World) -> None:
    def serve(stream: IStream, _name: str, _visitor: str) -> Recorder:
        stream.reset(Code.LOCAL_UNREACHABLE, "refused")
        return world.user

    world.serve = serve  # type: ignore[assignment,method-assign]
    visitor = world.visit()
    assert visitor.reset == (Code.LOCAL_UNREACHABLE, "refused")
    assert not world.user.told


def test_handshakes_take_turns(world: World) -> None:
    world.turns._budget = -1.0
    visitor = world.visit()
    assert not visitor.chunks
    world.clock.advance(2)
    assert visitor.is_up


def test_new_connections_get_the_new_certificate(world: World, authority: Authority) -> None:
    before = world.visit()
    seen = before.tls.getpeercert(binary_form=True)
    plain = world.plain
    other = authority.server("other", hosts=[NAME], kind="ECDSA")
    world.host.context = load_host_files(other.cert, other.key).context
    assert world.visit().tls.getpeercert(binary_form=True) != seen
    plain.write(b"goes on")
    assert before.plain == b"goes on"


def test_a_ca_sees_its_challenge_and_nobody_else_does(world: World) -> None:
    world.host.challenge = challenge_context(NAME, "token.thumbprint")
    ca = world.visit(NAME, "acme-tls/1")
    assert ca.tls.selected_alpn_protocol() == "acme-tls/1"
    assert ca.has_end
    ca.stream.finish()
    assert world.over == [world.end]
    assert not world.served
    seen = ca.tls.getpeercert(binary_form=True)
    assert world.visit(NAME, "http/1.1").tls.getpeercert(binary_form=True) != seen


def test_too_many_messages(world: World) -> None:
    visitor = world.visit()
    messages = world.end._messages
    assert messages is not None
    messages.are_too_many = True
    visitor.send(b"x")
    assert world.user.reset is not None


@pytest.fixture
def collected() -> Iterator[None]:
    with no_collector():
        yield


@pytest.mark.parametrize("how", ["ends", "reset", "alert", "timeout"])
def test_nothing_is_left(how: str, world: World, collected: None) -> None:
    visitor: Any = world.visit("www.example.org" if how == "alert" else NAME, start=how != "timeout")
    left = Left([world.end, *([world.end._connection] if world.end._connection else [])])
    if how == "ends":
        visitor.say_goodbye()
        world.plain.finish()
    elif how == "reset":
        visitor.stream.reset(Code.CONNECTION_LOST, "gone")
    elif how == "alert":
        visitor.stream.finish()
    else:
        world.clock.advance(HANDSHAKE_TIMEOUT)
    assert world.over.pop() is world.end
    world.carrier.user = None
    del world.end, world.plain, world.user.delivers
    assert left() == []


def test_what_it_costs_is_counted(world: World) -> None:
    world.visit()
    assert world.end.buffered() == stream_end.COST
