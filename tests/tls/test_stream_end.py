"""TLS that ends on a stream: bytes both ways, flow control, ends and resets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rtunnel.errors import Code
from rtunnel.tls import stream_end
from rtunnel.tls.stream_end import HANDSHAKE_TIMEOUT
from tests.no_collector import Left, no_collector
from tests.tls.stream_world import NAME, World


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
