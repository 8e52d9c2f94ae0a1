"""A relay between two ends, as a TURN server is, whose operator reads all that passes and does what he likes."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.wire.webrtc.signaling import ANSWER, CANDIDATE, OFFER, Signal
from tests.peers.lossy_path import Address, LossyPath
from tests.rtc.sealed.middle import change_what_comes

#: The first bytes of packets of DTLS (RFC 7983, section 7). Others belong to ICE, which finds the path.
_DTLS = range(20, 64)
#: How many packets are kept to be sent again.
_KEPT = 200


class HostilePath(LossyPath):
    """See above. Both ends find the sockets of the relay in place of each other's.

    :ivar is_hostile: whether it does anything but look.
    :ivar seen: all packets.
    :ivar did: how often it has done what.
    """

    def __init__(self, host: RtcHost, client: RtcClient, seed: int) -> None:
        super().__init__(seed)
        self.is_hostile = False
        self.seen: list[bytes] = []
        self.did: Counter[str] = Counter()
        self._choose = Random(seed)
        self._late: list[tuple[Any, bytes, Address]] = []
        change_what_comes(host, lambda signal: self._change(signal, is_ours=False))
        change_what_comes(client, lambda signal: self._change(signal, is_ours=True))

    def _change(self, signal: Signal, *, is_ours: bool) -> list[Signal]:
        payload: Any = signal.payload
        if signal.type in (OFFER, ANSWER) and "sdp" in payload:
            payload["sdp"]["sdp"] = self.change(payload["sdp"]["sdp"], is_ours=is_ours)
        return [] if signal.type == CANDIDATE else [signal]

    def _send(self, side: Any, data: bytes, to: Address) -> None:
        self.seen.append(data)
        for packet in self._packets(side, data, to) if self.is_hostile and data[:1] and data[0] in _DTLS else [data]:
            super()._send(side, packet, to)

    def _packets(self, side: Any, data: bytes, to: Address) -> list[bytes]:
        """Return what is sent in place of a packet."""
        what = self._choose.choices(
            ("pass", "repeat", "repeat an old one", "delay", "change", "cut", "make up", "drop"),
            (80, 3, 3, 4, 3, 2, 3, 2),
        )[0]
        self.did[what] += 1
        late, self._late = self._late, []
        for one in late:
            super()._send(*one)
        if what == "repeat":
            return [data, data]
        if what == "repeat an old one":
            return [data, self._choose.choice(self.seen[-_KEPT:])]
        if what == "delay":
            self._late.append((side, data, to))
            return []
        if what == "change":
            at = self._choose.randrange(len(data))
            return [data[:at] + bytes([data[at] ^ 1 << self._choose.randrange(8)]) + data[at + 1 :]]
        if what == "cut":
            return [data[: self._choose.randrange(1, len(data))]]
        if what == "make up":
            return [data, data[:13] + self._choose.randbytes(len(data) - 13) if len(data) > 13 else data]
        return [] if what == "drop" else [data]
