"""The socket's end of a stream, with a fake connection: back-pressure, ends and resets in both directions."""

from __future__ import annotations

import pytest

from rtunnel.errors import Code
from rtunnel.relay.socket_end import SMALL_CHUNK, SocketEnd
from rtunnel.testing import HIGH_WATER, MemoryStream, memory_streams
from tests.relay.fakes import FakeSocket, Lives, Recorder, lose


class Relay:
    """A visitor's connection, its stream, and a user at the other end of the stream.

    :ivar near: the stream's end at the connection.
    :ivar far: its other end, with *peer* as the user.
    """

    def __init__(self, window: int = 65536) -> None:
        self.lives = Lives()
        self.end: SocketEnd = self.lives.end()
        self.near: MemoryStream
        self.near, self.far = memory_streams(window)
        self.near.user, self.peer = self.end, Recorder()
        self.far.user = self.peer
        self.socket = FakeSocket()
        self.end.attach(self.near)
        self.end.makeConnection(self.socket)


@pytest.fixture
def relay() -> Relay:
    return Relay()


def test_bytes_both_ways(relay: Relay) -> None:
    relay.end.dataReceived(b"from the socket")
    relay.far.write(b"from the stream")
    assert relay.peer.received == b"from the socket"
    assert relay.socket.value() == b"from the stream"
    assert relay.near.delivered_count == 15


# Back-pressure


def test_full_socket_delivers_nothing_more(relay: Relay) -> None:
    relay.far.write(b"1")
    relay.socket.say_full()
    relay.far.write(b"23")
    assert relay.socket.value() == b"1"
    assert (relay.near.delivered_count, relay.near.waiting) == (1, 2)
    relay.socket.say_room()
    assert relay.socket.value() == b"123"
    assert relay.near.waiting == 0


def test_what_a_full_socket_keeps_is_bounded_by_the_window() -> None:
    relay = Relay(window=1000)
    relay.socket.say_full()
    relay.far.write(b"x" * 5000)
    assert relay.near.waiting == 1000
    relay.socket.say_room()
    assert relay.socket.value() == b"x" * 5000


def test_socket_that_fills_up_again_while_it_drains(relay: Relay) -> None:
    relay.socket.say_full()
    a, b, c = (letter * SMALL_CHUNK for letter in (b"a", b"b", b"c"))
    for chunk in (a, b, c):
        relay.far.write(chunk)
    write = relay.socket.write

    def write_and_fill(data: bytes) -> None:
        write(data)
        relay.socket.say_full()

    relay.socket.write = write_and_fill  # type: ignore[method-assign]
    relay.socket.say_room()
    assert (relay.socket.value(), relay.near.waiting) == (a, 2 * SMALL_CHUNK)
    relay.far.write(b"d")
    assert relay.socket.value() == a
    relay.socket.say_room()
    relay.socket.say_room()
    relay.socket.say_room()
    assert (relay.socket.value(), relay.near.waiting) == (a + b + c + b"d", 0)


def test_small_pieces_that_wait_are_joined(relay: Relay) -> None:
    relay.socket.say_full()
    for _ in range(2 * SMALL_CHUNK):
        relay.far.write(b"x")
    assert [len(piece) for piece in relay.end._pending] == [SMALL_CHUNK, SMALL_CHUNK]


def test_stream_that_takes_no_more_stops_the_reading() -> None:
    relay = Relay(window=10)
    relay.end.dataReceived(b"x" * (HIGH_WATER + 10))
    assert relay.socket.producerState == "paused"
    relay.peer.delivers = relay.far
    relay.far.delivered(10)
    assert relay.socket.producerState == "producing"
    assert relay.peer.received == b"x" * (HIGH_WATER + 10)


def test_stream_paused_before_the_connection_is_there() -> None:
    lives = Lives()
    end = lives.end()
    end.attach(memory_streams()[0])
    end.pause()
    socket = FakeSocket()
    end.makeConnection(socket)
    assert not socket.reading
    end.resume()
    assert socket.reading


def test_pauses_after_the_end_of_reading_do_nothing(relay: Relay) -> None:
    relay.end.readConnectionLost()
    relay.end.pause()
    assert relay.socket.reading
    relay.end.resume()


# Half-close


def test_end_of_the_socket_goes_to_the_stream_and_nothing_else_ends(relay: Relay) -> None:
    relay.end.dataReceived(b"request")
    relay.end.readConnectionLost()
    assert relay.peer.told == ["finished"]
    relay.far.write(b"answer")
    assert relay.socket.value() == b"answer"
    assert not relay.socket.disconnecting


def test_end_of_the_stream_goes_to_the_socket_and_nothing_else_ends(relay: Relay) -> None:
    relay.far.finish()
    assert relay.socket.half_closed
    relay.end.dataReceived(b"answer")
    assert relay.peer.received == b"answer"
    assert not relay.socket.disconnecting


def test_end_of_the_stream_waits_for_what_is_pending(relay: Relay) -> None:
    relay.socket.say_full()
    relay.far.write(b"last words")
    relay.far.finish()
    assert not relay.socket.half_closed
    relay.socket.say_room()
    assert relay.socket.value() == b"last words"
    assert relay.socket.half_closed


@pytest.mark.parametrize("socket_first", [True, False])
def test_both_ends_close_the_connection(relay: Relay, socket_first: bool) -> None:
    ends = [relay.end.readConnectionLost, relay.far.finish]
    for end in ends if socket_first else reversed(ends):
        assert not relay.socket.disconnecting
        end()
    assert relay.socket.disconnecting
    lose(relay.end)
    assert relay.peer.told == ["finished"]
    assert relay.lives.lost == [relay.end]


@pytest.mark.parametrize("socket_first", [True, False])
def test_bytes_still_queued_on_the_stream_outlive_the_connection(socket_first: bool) -> None:
    """Both directions have ended at the socket, but the far reader is slow. Nothing may be cut off."""
    relay = Relay(window=4)
    if not socket_first:
        relay.far.finish()
    relay.end.dataReceived(b"a long answer")
    relay.end.readConnectionLost()
    if socket_first:
        relay.far.finish()
    assert relay.socket.disconnecting
    lose(relay.end)
    relay.peer.delivers = relay.far
    relay.far.delivered(4)
    assert relay.peer.received == b"a long answer"
    assert relay.peer.told == ["finished"]


# A stream that ends as a whole


def test_closed_stream_closes_the_connection_behind_what_is_pending(relay: Relay) -> None:
    relay.socket.say_full()
    relay.far.write(b"last words")
    relay.end.closed()
    assert not relay.socket.disconnecting
    relay.socket.say_room()
    assert relay.socket.value() == b"last words"
    assert relay.socket.disconnecting


def test_closed_stream_outdoes_a_half_close_that_still_waits(relay: Relay) -> None:
    relay.socket.say_full()
    relay.far.write(b"last words")
    relay.end.finished()
    relay.end.closed()
    relay.socket.say_room()
    assert relay.socket.disconnecting
    assert not relay.socket.half_closed


# Resets


def test_reset_stream_resets_the_connection_behind_what_is_pending(relay: Relay) -> None:
    relay.socket.say_full()
    relay.far.write(b"an answer")
    relay.far.reset(Code.CONNECTION_LOST, "gone")
    relay.end.dataReceived(b"dropped")
    before = relay.socket.aborted
    relay.socket.say_room()
    assert relay.socket.value() == b"an answer"
    assert (before, relay.socket.aborted) == (False, True)
    assert relay.peer.received == b""


def test_reset_behind_an_end_that_waits(relay: Relay) -> None:
    relay.socket.say_full()
    relay.far.write(b"an answer")
    relay.far.finish()
    relay.far.reset(Code.CONNECTION_LOST, "gone")
    relay.socket.say_room()
    assert relay.socket.value() == b"an answer"
    assert relay.socket.half_closed
    assert relay.socket.aborted


@pytest.mark.parametrize("code", [Code.STALLED, Code.PROTOCOL, Code.FLOW_CONTROL])
def test_reset_that_does_not_wait(relay: Relay, code: Code) -> None:
    """Nobody takes what is pending, or the peer must not make us keep it."""
    relay.socket.say_full()
    relay.far.write(b"pending")
    relay.far.reset(code, "gone")
    assert relay.socket.aborted
    relay.socket.say_room()
    assert relay.socket.value() == b""


def test_bytes_before_a_lost_connection_come_before_the_reset() -> None:
    relay = Relay(window=4)
    relay.end.dataReceived(b"an answer")
    lose(relay.end, cleanly=False)
    assert (relay.peer.received, relay.peer.told) == (b"an a", [])
    relay.peer.delivers = relay.far
    relay.far.delivered(4)
    assert relay.peer.received == b"an answer"
    assert relay.peer.told == ["reset"]


def test_lost_connection_resets_the_stream(relay: Relay) -> None:
    lose(relay.end, cleanly=False)
    assert relay.peer.reset is not None
    assert relay.peer.reset[0] == Code.CONNECTION_LOST
    assert relay.peer.reset[1] == "the connection was reset or timed out"
    assert relay.lives.lost == [relay.end]


@pytest.mark.parametrize("ended", ["socket", "stream"])
def test_connection_lost_after_one_end_resets_the_stream(relay: Relay, ended: str) -> None:
    if ended == "socket":
        relay.end.readConnectionLost()
    else:
        relay.far.finish()
    lose(relay.end, cleanly=False)
    assert relay.peer.reset is not None


def test_connection_lost_with_bytes_pending_resets_the_stream(relay: Relay) -> None:
    """Both ends were sent, but one has not reached the socket. The far end must not think that it has."""
    relay.end.readConnectionLost()
    relay.socket.say_full()
    relay.end.data_received(b"never written")
    relay.end.finished()
    lose(relay.end, cleanly=False)
    assert relay.peer.reset is not None
    assert relay.near.delivered_count == 0


def test_abort_with_bytes_pending(relay: Relay) -> None:
    relay.socket.say_full()
    relay.far.write(b"x")
    relay.end.abort()
    assert relay.socket.aborted
    lose(relay.end, cleanly=False)
    assert relay.peer.reset is not None
    relay.end.abort()


def test_nothing_is_written_to_a_connection_that_is_lost(relay: Relay) -> None:
    lose(relay.end)
    relay.end.data_received(b"late")
    relay.end.finished()
    relay.end.pause()
    relay.end.resume()
    assert relay.socket.value() == b""
    assert not relay.socket.half_closed


def test_connection_without_a_stream() -> None:
    """Abort a visitor that has no stream."""
    lives = Lives()
    end, socket = lives.end(), FakeSocket()
    end.makeConnection(socket)
    end.dataReceived(b"hello?")
    end.readConnectionLost()
    end.abort()
    assert socket.aborted
    lose(end)
    assert lives.lost == [end]


def test_touched_by_bytes_of_both_directions(relay: Relay) -> None:
    relay.end.touched = False
    relay.end.dataReceived(b"x")
    assert relay.end.touched
    relay.end.touched = False
    relay.far.write(b"x")
    assert relay.end.touched
