"""Two engines back to back, without a network."""

from __future__ import annotations

import random
import time

import pytest

from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from tests.no_collector import Left, no_collector


def pair(server: Credentials, client: Credentials) -> tuple[TlsEngine, TlsEngine]:
    """A server's and a client's engine after the handshake."""
    first, second = TlsEngine(server), TlsEngine(client)
    second.start()
    exchange(first, second)
    assert first.peer is not None
    assert second.peer is not None
    return first, second


def exchange(first: TlsEngine, second: TlsEngine) -> tuple[bytes, bytes]:
    """Carry bytes between two engines until there are no more; return what each one received."""
    received = ([], [])  # type: tuple[list[bytes], list[bytes]]
    while True:
        to_second, to_first = first.output(), second.output()
        if not to_second and not to_first:
            return b"".join(received[0]), b"".join(received[1])
        if to_second:
            received[1].append(second.receive(to_second))
        if to_first:
            received[0].append(first.receive(to_first))


def test_names(server: Credentials, client: Credentials) -> None:
    first, second = pair(server, client)
    assert first.peer is not None
    assert second.peer is not None
    assert (first.peer.name, second.peer.name) == ("laptop", "server")
    assert first.peer.group == second.peer.group == "X25519MLKEM768"


@pytest.mark.parametrize("size", [1, 16384, 16385, 65545, 3_000_000])
def test_bytes(size: int, server: Credentials, client: Credentials) -> None:
    first, second = pair(server, client)
    data = random.Random(size).randbytes(size)
    first.send(data)
    second.send(data[::-1])
    assert exchange(first, second) == (data[::-1], data)


def test_one_write_of_whole_records(server: Credentials, client: Credentials) -> None:
    """What the link writes at one time becomes one write to the network."""
    first, _ = pair(server, client)
    first.send(bytes(65545))
    assert len(first.output()) == 65545 + 5 * 22
    assert first.output() == b""


def test_bytes_cut_anywhere(server: Credentials, client: Credentials) -> None:
    first, second = pair(server, client)
    data = bytes(range(256)) * 300
    first.send(data)
    wire = first.output()
    chance = random.Random(1)
    received = b""
    while wire:
        cut = chance.randrange(1, 2000)
        received += second.receive(wire[:cut])
        wire = wire[cut:]
    assert received == data


def test_goodbye(server: Credentials, client: Credentials) -> None:
    first, second = pair(server, client)
    first.send(b"last words")
    first.say_goodbye()
    assert exchange(first, second) == (b"", b"last words")
    assert second.ended
    assert not second.failure


def test_forged_bytes(server: Credentials, client: Credentials) -> None:
    first, second = pair(server, client)
    first.send(b"hello")
    wire = bytearray(first.output())
    wire[-1] ^= 1
    assert second.receive(bytes(wire)) == b""
    assert second.failure
    assert second.receive(b"more") == b""


@pytest.mark.parametrize("seed", range(50))
def test_noise(seed: int, server: Credentials, client: Credentials) -> None:
    """Whatever arrives, nothing is raised, and nobody is authenticated."""
    chance = random.Random(seed)
    engine, other = TlsEngine(server), TlsEngine(client)
    other.start()
    hello = bytearray(other.output())
    for _ in range(chance.randrange(1, 5)):
        hello[chance.randrange(len(hello))] = chance.randrange(256)
    engine.receive(bytes(hello))
    engine.receive(chance.randbytes(chance.randrange(1, 3000)))
    engine.output()
    engine.send(b"")
    assert engine.peer is None


def test_handshakes_are_quick(server: Credentials, client: Credentials) -> None:
    started = time.process_time()
    for _ in range(20):
        pair(server, client)
    assert (time.process_time() - started) / 20 < 0.1


@pytest.mark.parametrize("steps", range(4))
def test_an_engine_goes_at_once(steps: int, server: Credentials, client: Credentials) -> None:
    """Whoever drops one may not have come to close it: an attempt to connect that fails has an engine too."""
    with no_collector():
        first, second = TlsEngine(server), TlsEngine(client)
        left = Left([first.connection, second.connection])
        if steps:
            second.start()
        for _ in range(steps - 1):
            first.receive(second.output())
            second.receive(first.output())
        del first, second
        assert not left()
