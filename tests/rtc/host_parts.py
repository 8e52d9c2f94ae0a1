"""A client by hand for tests of ``rtc-host``."""

from __future__ import annotations

from typing import Any

from rtunnel.addresses import ListenAddress
from rtunnel.rtc.aiortc.peer_connection import PeerConnection
from rtunnel.rtc.host import RtcHost
from rtunnel.rtc.settings import ForwardSettings
from rtunnel.wire.webrtc.signaling import (
    ANSWER,
    CANDIDATE,
    OFFER,
    Description,
    Extension,
    Signal,
    description_payload,
    read_candidate,
    read_description,
)
from tests.reverse.net import HOST, until
from tests.rtc.fakes import FakeChannelUser, FakePeer, log_limiter
from tests.rtc.world import ID, LOOPBACK

#: What a message should not carry.
PAYLOADS: list[object] = [
    None,
    "text",
    5,
    [],
    {},
    {"sdp": None},
    {"sdp": {"type": "offer"}},
    {"sdp": {"type": "answer", "sdp": "v=0"}},
    {"sdp": {"type": "offer", "sdp": 5}},
    {"sdp": {"type": "offer", "sdp": "v=0"}},
    {"sdp": {"type": "offer", "sdp": "v=0\nm=application 9 DTLS/SCTP " + "9" * 5000}},
    {"sdp": {"type": "offer", "sdp": "\ud800"}, "rtunnel": {"version": "x"}},
    {"candidate": None},
    {"candidate": {"candidate": None}},
    {"candidate": {"candidate": "x", "sdpMid": 5}},
    {"candidate": {"candidate": "x", "sdpMLineIndex": []}},
    {"candidate": {"candidate": "\ud800"}},
]


def forward(name: str) -> ForwardSettings:
    return ForwardSettings(name, ListenAddress.parse(f"{HOST}:0"))


class ByHand(FakePeer):
    """A client that knows the host's inside: its signals need no server."""

    def __init__(self, host: RtcHost, name: str = "by hand", *, extended: bool = True) -> None:
        super().__init__()
        self.host = host
        self.name = name
        self.extension = Extension(65536) if extended else None
        self.connection = PeerConnection(LOOPBACK, self, 100, log_limiter())
        self.answers: list[Description] = []
        send = host.signaling.send

        def sent(signal: Signal) -> bool:
            if signal.target_id != self.name:
                return send(signal)
            self.got(signal)
            return True

        host.signaling.send = sent  # type: ignore[method-assign]

    def got(self, signal: Signal) -> None:
        if signal.type == ANSWER:
            self.answers.append(read_description(ANSWER, signal.payload))
            self.connection.take_answer(self.answers[-1].sdp)
        elif signal.type == CANDIDATE:
            self.connection.take_candidate(read_candidate(signal.payload))

    def tell(self, kind: str, payload: object) -> None:
        self.host.signal_received(Signal(kind, payload, ID, self.name))

    def description_ready(self, kind: str, sdp: str) -> None:
        super().description_ready(kind, sdp)
        self.tell(OFFER, description_payload(OFFER, Description(sdp, self.extension)))

    async def connect(self) -> ByHand:
        self.connection.offer()
        await until(lambda: ("connected",) in self.told, "a connection")
        return self

    async def open(self, label: str = "tcp-x", protocol: str = "", *, reliable: bool = True) -> Any:
        channel, user = self.connection.open_channel(label, protocol, reliable), FakeChannelUser()
        channel.use(user)
        await until(lambda: user.told, "a channel")
        return channel, user
