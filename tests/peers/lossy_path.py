"""A path between an engine and our end that loses packets: a relay that each of them takes for the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from tests.reverse.net import HOST, reactor

_CANDIDATES = re.compile(r"a=candidate:.*\r?\n")
_CANDIDATE = re.compile(r"(a=candidate:\S+ 1 udp \d+) ([\d.]+) (\d+) typ host.*\r?\n", re.IGNORECASE)

Address = tuple[str, int]


class _Side(DatagramProtocol):
    """A socket of the relay."""

    transport: Any

    def __init__(self, take: Callable[[bytes, Address], None]) -> None:
        self._take = take
        self.port = reactor.listenUDP(0, self, interface=HOST, maxPacketSize=1 << 16)

    def datagramReceived(self, data: bytes, source: Address) -> None:
        self._take(data, source)


class LossyPath:
    """See above. The engine finds one socket, and our end another one for each socket of the engine.

    :ivar loss: the share of packets that is lost each way.
    :ivar lost: how many there were.
    """

    def __init__(self, seed: int = 1) -> None:
        self.loss = 0.0
        self.lost = 0
        self._random = Random(seed)
        self._is_closed = False
        self._ours: Address | None = None
        self._front = _Side(self._from_engine)
        self._backs: dict[Address, _Side] = {}

    def change(self, sdp: str, *, is_ours: bool) -> str:
        """Let a description name the relay, wherever it names its own end."""
        lines = []
        for prefix, host, port in _CANDIDATE.findall(sdp):
            address = host, int(port)
            if is_ours:
                self._ours, side = address, self._front
            else:
                side = self._back(address)
            lines.append(f"{prefix} {HOST} {side.port.getHost().port} typ host\r\n")
        return _CANDIDATES.sub("", sdp).replace("a=end-of-candidates\r\n", "") + "".join(lines)

    def _back(self, engine: Address) -> _Side:
        """The socket that is one of the engine's, for our end."""
        if engine not in self._backs:
            self._backs[engine] = _Side(lambda data, _: self._send(self._front, data, engine))
        return self._backs[engine]

    def _send(self, side: _Side, data: bytes, to: Address) -> None:
        if self._random.random() < self.loss:
            self.lost += 1
        elif side.transport is not None:
            side.transport.write(data, to)

    def _from_engine(self, data: bytes, source: Address) -> None:
        # Our end may have begun with its checks before anybody has seen its description.
        if self._ours is not None and not self._is_closed:
            self._send(self._back(source), data, self._ours)

    def close(self) -> Any:
        """Close all sockets; return a Deferred, or None."""
        self._is_closed = True
        for back in self._backs.values():
            back.port.stopListening()
        return self._front.port.stopListening()
