"""A signaling server's operator who does with the messages what he likes, and sits between the ends himself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rtunnel.rtc.aiortc.peer_connection import PeerConnection
from rtunnel.rtc.channels.channel import Channel
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.host import RtcHost
from rtunnel.wire.webrtc.signaling import (
    ANSWER,
    CANDIDATE,
    OFFER,
    Signal,
    candidate_payload,
    description_payload,
    read_candidate,
    read_description,
)
from tests.rtc.fakes import FakePeer, log_limiter
from tests.rtc.world import LOOPBACK

#: Returns what arrives in place of a signal.
Change = Callable[[Signal], list[Signal]]


def change_what_comes(end: RtcClient | RtcHost, change: Change) -> None:
    """Let an end get other signals than those that were sent to it."""
    receive = end.signal_received

    def received(signal: Any) -> None:
        for each in change(signal):
            receive(each)

    end.signal_received = received  # type: ignore[method-assign]


def without(key: str) -> Change:
    """Whoever leaves a part of the extension out of descriptions; all of it if *key* is empty."""

    def change(signal: Signal) -> list[Signal]:
        payload: Any = signal.payload
        if signal.type in (OFFER, ANSWER) and isinstance(payload, dict) and "rtunnel" in payload:
            extension = {name: value for name, value in payload["rtunnel"].items() if key and name != key}
            rest = {name: value for name, value in payload.items() if name != "rtunnel"}
            return [replace(signal, payload={**rest, "rtunnel": extension} if extension else rest)]
        return [signal]

    return change


class _Half(FakePeer):
    """The middle's connection to one of the ends.

    :ivar other: the connection to the other.
    """

    other: _Half

    def __init__(self, send: Callable[[str, object], None]) -> None:
        super().__init__()
        self._send = send
        self.connection = PeerConnection(LOOPBACK, self, 500, log_limiter())
        self.extension: Any = None
        self.waiting: list[Channel] = []
        self.is_up = False

    def description_ready(self, kind: str, sdp: str) -> None:
        # What the end on the other side of the middle has announced is passed on.
        description = replace(self.extension, sdp=sdp)
        self._send(kind, description_payload(kind, description))

    def candidate_found(self, candidate: Any) -> None:
        self._send(CANDIDATE, candidate_payload(candidate))

    def connected(self) -> None:
        self.is_up = True
        for channel in self.other.waiting:
            self.other.join(channel)

    def channel_arrived(self, channel: object) -> None:
        assert isinstance(channel, Channel)
        if self.other.is_up:
            self.join(channel)
        else:
            self.waiting.append(channel)
            channel.use(_Pipe(None))

    def join(self, channel: Channel) -> None:
        beyond = self.other.connection.open_channel(channel.label, channel.protocol, channel.reliable)
        early = channel._user
        pipe = _Pipe(beyond)
        channel.use(pipe)
        beyond.use(_Pipe(channel))
        if isinstance(early, _Pipe):
            for data in early.kept:
                pipe.message_received(data)


class _Pipe:
    """Passes on what comes on a channel.

    :ivar seen: every message of every channel.
    """

    seen: list[bytes]

    def __init__(self, beyond: Channel | None) -> None:
        self._beyond = beyond
        self.kept: list[bytes] = []

    def channel_opened(self) -> None:
        pass

    def message_received(self, data: bytes) -> None:
        if self._beyond is None:
            self.kept.append(data)
        else:
            self._beyond.send(data)

    def text_received(self, text: bytes) -> None:
        if self._beyond is not None:
            self._beyond.send_text(text.decode())

    def channel_closed(self) -> None:
        if self._beyond is not None:
            self._beyond.close()


class Middle:
    """Makes a DTLS connection with each of the ends, under certificates of its own, and passes everything on.

    :ivar halves: its connection to the client, and to the host.
    """

    def __init__(self, host: RtcHost, client: RtcClient) -> None:
        self._host, self._client = host, client
        self._host_got, self._client_got = host.signal_received, client.signal_received
        self.halves: list[tuple[_Half, _Half]] = []
        host.signal_received = self._to_host  # type: ignore[method-assign]
        client.signal_received = self._to_client  # type: ignore[method-assign]

    def _to_host(self, signal: Any) -> None:
        """Answer the client's offer, and make one to the host."""
        if signal.type == OFFER:
            who = signal.sender_id

            def to_client(kind: str, payload: object) -> None:
                self._client_got(Signal(kind, payload, who, self._host.settings.id))

            def to_host(kind: str, payload: object) -> None:
                self._host_got(Signal(kind, payload, self._host.settings.id, who))

            near, far = _Half(to_client), _Half(to_host)
            near.other, far.other = far, near
            self.halves.append((near, far))
            near.extension = far.extension = read_description(OFFER, signal.payload)
            near.connection.take_offer(near.extension.sdp)
            far.connection.offer()
        elif signal.type == CANDIDATE and self.halves:
            self.halves[-1][0].connection.take_candidate(read_candidate(signal.payload))

    def _to_client(self, signal: Any) -> None:
        """Accept the host's answer."""
        if signal.type == ANSWER and self.halves:
            self.halves[-1][1].connection.take_answer(read_description(ANSWER, signal.payload).sdp)
        elif signal.type == CANDIDATE and self.halves:
            self.halves[-1][1].connection.take_candidate(read_candidate(signal.payload))

    async def close(self) -> None:
        for half in (half for both in self.halves for half in both):
            await half.connection.close()
