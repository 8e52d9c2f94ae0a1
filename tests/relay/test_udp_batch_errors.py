"""Errors that a socket for batches of packets reports late: they are those of earlier packets."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from rtunnel.relay.udp.batches import BatchSocket
from rtunnel.wire.datagrams.path_mtu import BASE
from tests.reverse.net import HOST, reactor


class Told:
    """A :class:`BatchSocket` that is connected to *address*, and what it told."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.lost: list[str] = []
        self.too_large: list[int] = []
        self.udp = BatchSocket(reactor, lambda *_: None, self.lost.append, lambda: None, BASE)
        self.udp.connect(*address)

    def send(self, *packets: bytes) -> None:
        self.udp.send_all([(packet, None) for packet in packets], self.too_large.append)


def bound(port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((HOST, port))
    made.settimeout(10)
    return made


def test_packet_behind_a_refused_one_is_sent() -> None:
    with bound() as first:
        address = first.getsockname()
    told = Told(address)
    told.send(b"nobody is there")
    with bound(address[1]) as program:
        told.send(b"somebody is there")
        assert program.recv(100) == b"somebody is there"
    told.udp.close()


def test_only_the_packet_that_is_refused_itself_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router on the way has no room for an earlier one: the system says so when the next one is sent."""
    sent: list[bytes] = []
    errors = [True]

    def send(data: bytes, _address: Any) -> None:
        if len(data) > 1400 or errors:
            errors.clear()
            raise OSError(errno.EMSGSIZE, "")
        sent.append(data)

    with bound() as program:
        told = Told(program.getsockname())
        monkeypatch.setattr(told.udp, "_send", send)
        told.send(b"small")
        told.send(bytes(1472))
        assert (sent, told.too_large, told.lost) == ([b"small"], [1472], [])
        told.udp.close()
