"""TLS that ends on a stream: how it begins, and whom it turns away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from OpenSSL import SSL

from rtunnel.acme.challenge import challenge_context
from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream
from rtunnel.relay.memory_stream import memory_streams
from rtunnel.tls.hosts import load_host_files
from rtunnel.tls.openssl import set_groups
from rtunnel.tls.stream_end import HANDSHAKE_TIMEOUT, LINGER, TlsEnd
from tests.relay.fakes import Recorder
from tests.tls.parts import Authority
from tests.tls.stream_world import NAME, World


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
