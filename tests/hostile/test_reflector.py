"""An offer that names other people's addresses: the host sends them little, and nothing long of the peer's choice."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rtunnel.rtc.aiortc.checks import MAX_TO_ADDRESS
from tests.hostile.harness import Honest, gauge
from tests.hostile.signaling import Strangers, message, offer
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.rtc import RtcTunnel

PORTS = 64


class Victims:
    """Sockets that say nothing.

    :ivar received: bytes by address.
    :ivar packets: how many datagrams.
    """

    def __init__(self, addresses: list[str]) -> None:
        self.received: Counter[str] = Counter()
        self.packets = 0
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in addresses]
        self._selector = selectors.DefaultSelector()
        for one, address in zip(self._sockets, addresses, strict=True):
            one.bind((address, 0))
            self._selector.register(one, selectors.EVENT_READ, address)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                self.received[key.data] += len(key.fileobj.recv(2000))
                self.packets += 1

    @property
    def candidates(self) -> list[str]:
        """What an offer says of them, as briefly as it can."""
        where = [one.getsockname() for one in self._sockets]
        return [f"candidate:1 1 udp 1 {host} {port} typ host" for host, port in where]

    def close(self) -> None:
        self._over.set()
        self._thread.join(PATIENCE)
        self._selector.close()
        for one in self._sockets:
            one.close()


@contextmanager
def victims(addresses: list[str]) -> Iterator[Victims]:
    made = Victims(addresses)
    yield made
    made.close()


def test_a_strangers_address(start_rtc: Callable[..., RtcTunnel], echo: str) -> None:
    """It gets less than the host got. How little many addresses get together is in tests/rtc/aiortc/test_checks.py."""
    tunnel = start_rtc(echo)
    with victims(["127.0.1.1"] * PORTS) as all_of_them, Strangers(tunnel.port, 1) as strangers:
        payload = offer(all_of_them.candidates, "u" * 32)
        with Honest(tunnel.local, comes_anew=False), gauge(tunnel.host) as used:
            strangers.send(payload)
            poll(lambda: all_of_them.packets >= MAX_TO_ADDRESS, PATIENCE, "all checks that it gets")
            # Two rounds and more of repeated checks pass meanwhile.
            tunnel.local = free_port()
            tunnel.start_client()
            tunnel.wait_for_client()
        sent = len(message("stranger 0", payload))
        print(f"{sent} bytes of signaling, {dict(all_of_them.received)}: {all_of_them.packets} packets")
        assert sum(all_of_them.received.values()) < sent
        assert used.cpu_seconds < 2


def test_long_text_of_the_peers_choice(start_rtc: Callable[..., RtcTunnel], echo: str) -> None:
    tunnel = start_rtc(echo, start=("signal", "host"))
    with victims(["127.0.1.1"]) as victim, Strangers(tunnel.port, 1) as strangers:
        strangers.send(offer(victim.candidates, "u" * 256))
        tunnel.host.wait_for("unusable message: a session description whose ice-ufrag has more than 32 characters")
        strangers.send(offer(victim.candidates))
        poll(lambda: victim.packets, PATIENCE, "a check")
        assert victim.received["127.0.1.1"] <= victim.packets * 88
