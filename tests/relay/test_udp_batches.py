"""UDP sockets whose packets go out and come in several at a time."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.relay.udp.batches import BatchSocket
from rtunnel.relay.udp.segments import MAX_SEGMENTS
from rtunnel.wire.datagrams.path_mtu import BASE
from tests.needs import needs_ipv6
from tests.reverse.net import HOST, reactor, until


class Batches:
    """A :class:`BatchSocket`, and what it told."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.lost: list[str] = []
        self.too_large: list[int] = []
        self.reads = 0
        self.udp = BatchSocket(reactor, lambda *got: self.received.append(got), self.lost.append, self._done, BASE)

    def _done(self) -> None:
        self.reads += 1

    def send(self, packets: list[bytes], address: Any = None) -> None:
        self.udp.send_all([(packet, address) for packet in packets], self.too_large.append)


@pytest.fixture
def pair() -> Iterator[tuple[Batches, Batches]]:
    """One that is bound, and one that is connected to it."""
    bound, connected = Batches(), Batches()
    bound.udp.bind(HOST, 0)
    address: Any = bound.udp.address
    connected.udp.connect(HOST, address.port)
    yield bound, connected
    bound.udp.close()
    connected.udp.close()


class Failing:
    """A socket whose next calls fail.

    :ivar calls: how many packets each call had.
    """

    def __init__(self, real: socket.socket, *errors: int) -> None:
        self._real = real
        self._errors = list(errors)
        self.calls: list[int] = []

    def _call(self, count: int) -> None:
        self.calls.append(count)
        if self._errors and (error := self._errors.pop(0)):
            raise OSError(error, os.strerror(error))

    def send(self, data: bytes) -> int:
        self._call(1)
        return self._real.send(data)

    def sendmsg(self, packets: list[bytes], *more: Any) -> int:
        self._call(len(packets))
        return self._real.sendmsg(packets, *more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def fail(batches: Batches, *errors: int) -> Failing:
    """Let the next calls of a socket fail; 0: one does not."""
    failing = Failing(batches.udp._socket, *errors)  # type: ignore[arg-type]
    batches.udp._socket = failing  # type: ignore[assignment]
    return failing


SIZES = [1200] * 70 + [1200, 300] + [1200, 1201, 1199, 1, 65507, 2] + [40000, 40000] + [1000] * MAX_SEGMENTS


@ensureDeferred
async def test_every_packet_arrives_whole_and_in_order(pair: tuple[Batches, Batches]) -> None:
    bound, connected = pair
    packets = [os.urandom(size) for size in SIZES]
    # A few at a time: the receive buffer may be small.
    for start in range(0, len(packets), 20):
        connected.send(packets[start : start + 20])
        await until(lambda: len(bound.received) >= min(start + 20, len(packets)), "all packets")  # noqa: B023
    assert [data for data, _ in bound.received] == packets
    there = bound.received[0][1]
    bound.send([b"answer"] * 5, there)
    await until(lambda: len(connected.received) == 5)
    assert (bound.lost, connected.lost) == ([], [])


@pytest.mark.parametrize("everywhere", ["0.0.0.0", pytest.param("::", marks=needs_ipv6)])
@ensureDeferred
async def test_a_batch_leaves_from_the_address_that_was_asked(everywhere: str) -> None:
    bound, connected = Batches(), Batches()
    bound.udp.bind(everywhere, 0)
    address: Any = bound.udp.address
    connected.udp.connect("127.0.0.2", address.port)
    connected.send([b"question"])
    await until(lambda: bound.received)
    bound.send([b"answer"] * 3, bound.received[0][1])
    await until(lambda: len(connected.received) == 3)
    assert bound.lost == []
    bound.udp.close()
    connected.udp.close()


@ensureDeferred
async def test_an_error_of_an_earlier_packet_loses_none(pair: tuple[Batches, Batches]) -> None:
    """The system tells the ICMP error for one packet when the next one is sent, and then does not send that one."""
    bound, connected = pair
    for error in (errno.ECONNREFUSED, errno.EMSGSIZE, errno.EHOSTUNREACH):
        for packets in ([b"single"], [b"batch"] * 3):
            bound.received.clear()
            fail(connected, error)
            connected.send(packets)
            await until(lambda: len(bound.received) == len(packets))  # noqa: B023
    # A small packet is not too large because an earlier one was.
    assert (connected.lost, connected.too_large) == ([], [])


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.EPERM, errno.ENETUNREACH, errno.ECONNREFUSED])
@ensureDeferred
async def test_what_cannot_be_sent_is_lost(pair: tuple[Batches, Batches], error: int) -> None:
    bound, connected = pair
    fail(connected, error, error)
    connected.send([b"single"])
    fail(connected, error, error)
    connected.send([b"batch"] * 3)
    assert connected.lost == [os.strerror(error)] * 2
    connected.send([b"later"] * 3)
    await until(lambda: len(bound.received) == 3)


@ensureDeferred
async def test_a_batch_of_packets_that_are_too_large_for_an_interface(pair: tuple[Batches, Batches]) -> None:
    """Linux says EINVAL. Others of the socket may have larger interfaces, so batches go on."""
    bound, connected = pair
    failing = fail(connected, errno.EINVAL, errno.EINVAL, *[errno.EMSGSIZE] * 4)
    connected.send([bytes(1400), bytes(1400), bytes(9)])
    assert failing.calls == [3, 3, 1, 1, 1, 1, 1]
    assert connected.too_large == [1400, 1400]
    await until(lambda: bound.received)
    assert [data for data, _ in bound.received] == [bytes(9)]
    connected.send([b"small"] * 2)
    assert failing.calls[-1] == 2


@ensureDeferred
async def test_an_interface_without_batches(pair: tuple[Batches, Batches]) -> None:
    bound, connected = pair
    failing = fail(connected, errno.EIO, errno.EIO)
    connected.send([b"batch"] * 3)
    connected.send([b"batch"] * 3)
    assert failing.calls == [3, 3] + [1] * 6
    await until(lambda: len(bound.received) == 6)
    assert (connected.lost, connected.too_large) == ([], [])


@ensureDeferred
async def test_nobody_there(pair: tuple[Batches, Batches]) -> None:
    bound, connected = pair
    bound.udp.close()
    connected.send([b"x"])
    await until(lambda: connected.lost)
    connected.send([b"x"] * 3)
    await until(lambda: len(connected.lost) == 2)
    assert connected.lost == ["Connection refused"] * 2


def test_a_busy_or_closed_socket() -> None:
    batches = Batches()
    batches.send([b"x"] * 2)
    batches.udp.bind(HOST, 0)
    to = (HOST, 9)
    failing = Failing(batches.udp._socket, errno.EAGAIN, errno.EAGAIN)  # type: ignore[arg-type]
    batches.udp._socket = failing  # type: ignore[assignment]
    failing.sendto = lambda data, address: failing.send(data)  # type: ignore[attr-defined]
    batches.send([b"x"], to)
    batches.send([b"x"] * 2, to)
    assert batches.lost == ["the socket is busy"] * 2
    batches.udp.close()
    batches.send([b"x"] * 2, to)
