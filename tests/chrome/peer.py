"""A host or a client with Chrome's own WebRTC stack, that knows nothing but the reference protocol.

    python peer.py host --signal ws://127.0.0.1:8080 --id myhost --remote 127.0.0.1:80
    python peer.py client --signal ws://127.0.0.1:8080 --id myhost --local 127.0.0.1:8080

It stands in for the reference programs at the other end of our tunnel (docs/wire.rst). Its WebRTC is PyPI's ``wrtc``:
libwebrtc with the browser's interface. It runs as a process of its own, so that the threads of that library stay out
of the tests, and imports nothing of ``rtunnel``, so that no mistake of ours is made at both ends.

It tells what happens in lines on its standard output, which the tests wait for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import uuid
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

os.environ["WRTC_ALLOW_LOOPBACK"] = "1"  # Read when `webrtc` is imported.

import webrtc
from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol

Address = tuple[str, int]

HIGH_WATER = 512 * 1024
"""Bytes that may wait in a channel before nothing more is read from its socket."""
LOW_WATER = 128 * 1024

LOOK = 0.05
"""Seconds between two looks at a channel's state."""


def say(line: str) -> None:
    print(line, flush=True)


class Signaling(WebSocketClientProtocol):
    """The connection to the signaling server.

    :ivar messages: what comes, parsed; None: stop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def onOpen(self) -> None:
        self.opened.set_result(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert not isBinary
        self.messages.put_nowait(json.loads(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        say(f"signaling closed: {code} {reason}")
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"{code} {reason}"))

    def tell(self, kind: str, payload: object, target: str, sender: str) -> None:
        """Send a message; an ID that is empty is left out, as the reference does."""
        message = {"type": kind, "payload": payload, "target_id": target, "sender_id": sender}
        text = json.dumps({key: value for key, value in message.items() if value != ""})
        assert len(text) < 10_240, "longer than the reference signaling server takes"
        self.sendMessage(text.encode())


async def connect_signaling(url: str, token: str) -> Signaling:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    factory = WebSocketClientFactory(url, headers=headers)
    factory.protocol = Signaling
    host, port = address(urlsplit(url).netloc)
    _, connection = await asyncio.get_running_loop().create_connection(factory, host, port)
    assert isinstance(connection, Signaling)
    await connection.opened
    return connection


# Channels and sockets


class Pipe:
    """A data channel as a queue of messages in, and a bounded buffer out.

    :ivar incoming: messages; None when the channel is closed.
    """

    def __init__(self, channel: webrtc.RTCDataChannel, options: argparse.Namespace) -> None:
        self.channel = channel
        self.message_size: int = options.message_size
        self._text: bool = options.text
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._opened = asyncio.Event()
        self._room = asyncio.Event()
        if channel.ready_state == "open":
            self._opened.set()
        channel.buffered_amount_low_threshold = LOW_WATER
        channel.on("open", lambda _: self._opened.set())
        channel.on("message", self._message)
        channel.on("bufferedamountlow", lambda _: self._room.set())
        self._ending = asyncio.create_task(self._wait_for_the_end())

    def _message(self, event: webrtc.MessageEvent) -> None:
        data = event.data
        # A reference end makes no difference between text and binary messages: all are the stream's bytes.
        self.incoming.put_nowait(data.encode() if isinstance(data, str) else bytes(data))

    async def _wait_for_the_end(self) -> None:
        # Not by the channel's "close", which may never come: `wrtc` begins to listen to a channel in a thread of its
        # own, when the channel is on its way already. One that the other end has closed by then becomes "closed"
        # without an event, and not always before `create_data_channel` returns, so a single look is not enough.
        while self.channel.ready_state != "closed":
            await asyncio.sleep(LOOK)
        say(f"channel {self.channel.label} closed")
        self._opened.set()
        self._room.set()
        self.incoming.put_nowait(None)

    @property
    def is_open(self) -> bool:
        return self.channel.ready_state == "open"

    async def send(self, data: bytes) -> None:
        """Send one message, when there is room. On a channel that is closed nothing happens."""
        await self._opened.wait()
        while self.is_open and self.channel.buffered_amount > HIGH_WATER:
            self._room.clear()
            await self._room.wait()
        if self.is_open:
            self.channel.send(data.decode() if self._text else data)

    def send_datagram(self, data: bytes) -> None:
        """Send one message, or lose it."""
        if self.is_open and self.channel.buffered_amount <= HIGH_WATER:
            self.channel.send(data)


async def forward_stream(pipe: Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward bytes both ways; the end of the socket closes the channel, and the other way round."""

    async def outward() -> None:
        try:
            while data := await reader.read(pipe.message_size):
                await pipe.send(data)
        except ConnectionError:
            pass
        pipe.channel.close()

    sending = asyncio.create_task(outward())
    try:
        while (data := await pipe.incoming.get()) is not None:
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
        pipe.channel.close()
        await sending


class Datagrams(asyncio.DatagramProtocol):
    """A UDP socket whose datagrams go into a channel."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.source = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, source: Address) -> None:
        if not self.source.done():
            self.source.set_result(source)
        self._pipe.send_datagram(data)


async def forward_datagrams(pipe: Pipe, *, remote: Address | None = None, local: Address | None = None) -> None:
    """Forward datagrams both ways. At the local end answers go to the first source that was seen, as the reference
    client does it."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Datagrams(pipe), remote_addr=remote, local_addr=local
    )
    if local is not None:
        say("listening")
    try:
        while (data := await pipe.incoming.get()) is not None:
            transport.sendto(data, None if remote else await protocol.source)
    finally:
        transport.close()


# Peer connections


class Connection:
    """A peer connection and what is said about it through the signaling server.

    :param target: the other end's ID.
    :param like_pion: tell candidates as the reference programs do: before the description that they belong to, and
        without an ``sdpMid``.
    """

    def __init__(self, signaling: Signaling, target: str, own_id: str, *, like_pion: bool) -> None:
        self._signaling = signaling
        self._target = target
        self._own_id = own_id
        self._like_pion = like_pion
        self._early: list[webrtc.RTCIceCandidateInit] = []
        self._gathered = asyncio.Event()
        self.connected = asyncio.Event()
        self.rtc = webrtc.RTCPeerConnection(webrtc.RTCConfiguration(always_negotiate_data_channels=True))
        self.rtc.on("icecandidate", self._candidate_found)
        self.rtc.on("connectionstatechange", self._state_changed)

    def _tell(self, kind: str, payload: object) -> None:
        self._signaling.tell(kind, payload, self._target, self._own_id)

    def _state_changed(self, _: object) -> None:
        state = self.rtc.connection_state.value
        say(f"peer {self._target} {state}")
        if state == "connected":
            self.connected.set()

    def _candidate_found(self, event: webrtc.RTCPeerConnectionIceEvent) -> None:
        candidate = event.candidate
        if candidate is None:
            self._gathered.set()
        # Loopback is enough on one machine; and the end of candidates is not told by the reference.
        elif candidate.candidate and candidate.address == "127.0.0.1":
            value = {
                "candidate": candidate.candidate,
                "sdpMid": "" if self._like_pion else candidate.sdp_mid,
                "sdpMLineIndex": candidate.sdp_m_line_index,
                "usernameFragment": None,
            }
            self._tell("candidate", {"candidate": value})

    async def offer(self) -> None:
        await self._describe(await self.rtc.create_offer())

    async def answer(self, payload: dict[str, Any]) -> None:
        await self._take(payload)
        await self._describe(await self.rtc.create_answer())

    async def _describe(self, description: webrtc.RTCSessionDescriptionInit) -> None:
        kind = str(webrtc.RTCSdpType(description.type).value)
        await self.rtc.set_local_description(description)
        if self._like_pion:
            await self._gathered.wait()
        # This is the description as it was before gathering: it has no candidates.
        self._tell(kind, {"sdp": {"type": kind, "sdp": description.sdp}})
        say(f"{kind} sent to {self._target}")

    async def take_answer(self, payload: dict[str, Any]) -> None:
        await self._take(payload)

    async def _take(self, payload: dict[str, Any]) -> None:
        description = payload["sdp"]
        await self.rtc.set_remote_description(webrtc.RTCSessionDescriptionInit(description["type"], description["sdp"]))
        early, self._early = self._early, []
        for candidate in early:
            await self.rtc.add_ice_candidate(candidate)

    async def take_candidate(self, payload: dict[str, Any]) -> None:
        value = payload["candidate"]
        candidate = webrtc.RTCIceCandidateInit(value["candidate"], value["sdpMid"] or None, value["sdpMLineIndex"])
        if self.rtc.remote_description is None:
            self._early.append(candidate)
        else:
            await self.rtc.add_ice_candidate(candidate)


class Host:
    """Answers every client, and gives each channel a socket to the service."""

    def __init__(self, signaling: Signaling, options: argparse.Namespace) -> None:
        self._signaling = signaling
        self._options = options
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: dict[str, Connection] = {}

    def start(self) -> None:
        self._signaling.tell("register-host", None, "", self._options.id)
        say("registered")

    async def signal_received(self, message: dict[str, Any]) -> None:
        sender = message.get("sender_id", "")
        if message["type"] not in ("offer", "candidate"):
            say(f"signaling error: {message}")
            return
        connection = self.connections.get(sender)
        if connection is None:
            connection = Connection(self._signaling, sender, self._options.id, like_pion=self._options.like_pion)
            connection.rtc.on("datachannel", self._channel_arrived)
            self.connections[sender] = connection
        if message["type"] == "offer":
            await connection.answer(message["payload"])
        else:
            await connection.take_candidate(message["payload"])

    def _channel_arrived(self, event: webrtc.RTCDataChannelEvent) -> None:
        channel = event.channel
        reliable = channel.ordered and channel.max_retransmits is None and channel.max_packet_life_time is None
        say(f"channel {channel.label} arrived, {'reliable' if reliable else 'unreliable'}")
        serve = self._serve_datagrams if self._options.protocol == "udp" else self._serve_stream
        task = asyncio.create_task(serve(Pipe(channel, self._options)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_stream(self, pipe: Pipe) -> None:
        try:
            reader, writer = await asyncio.open_connection(*self._options.remote)
        except OSError:
            pipe.channel.close()
            return
        await forward_stream(pipe, reader, writer)

    async def _serve_datagrams(self, pipe: Pipe) -> None:
        await forward_datagrams(pipe, remote=self._options.remote)


class Client:
    """Has one peer connection to the host, and a channel for each connection to its local port."""

    def __init__(self, signaling: Signaling, options: argparse.Namespace) -> None:
        self._signaling = signaling
        self._options = options
        self._connection = Connection(signaling, options.id, str(uuid.uuid4()), like_pion=options.like_pion)
        self.connections = {options.id: self._connection}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._spawn(self._run())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        await self._connection.offer()
        if self._options.vanish:
            self._signaling.transport.abort()
            os._exit(0)
        await self._connection.connected.wait()
        if self._options.protocol == "udp":
            init = webrtc.RTCDataChannelInit(ordered=False, max_retransmits=0)
            channel = self._connection.rtc.create_data_channel("tunnel-udp", init)
            await forward_datagrams(Pipe(channel, self._options), local=self._options.local)
        else:
            await asyncio.start_server(self._accept, *self._options.local)
            say("listening")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("peername")
        channel = self._connection.rtc.create_data_channel(f"tcp-{host}:{port}")
        self._spawn(forward_stream(Pipe(channel, self._options), reader, writer))

    async def signal_received(self, message: dict[str, Any]) -> None:
        if message["type"] == "answer":
            await self._connection.take_answer(message["payload"])
        elif message["type"] == "candidate":
            await self._connection.take_candidate(message["payload"])
        else:
            say(f"signaling error: {message}")


async def run(options: argparse.Namespace) -> None:
    """Until a signal says to stop; then the peer connections are closed in good order."""
    signaling = await connect_signaling(options.signal, options.token)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signaling.messages.put_nowait, None)
    end = Host(signaling, options) if options.kind == "host" else Client(signaling, options)
    end.start()
    while (message := await signaling.messages.get()) is not None:
        await end.signal_received(message)
    for connection in end.connections.values():
        connection.rtc.close()


def address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["host", "client"])
    parser.add_argument("--signal", required=True)
    parser.add_argument("--id", required=True, help="the host's")
    parser.add_argument("--remote", type=address, help="the host's service")
    parser.add_argument("--local", type=address, help="the client's port")
    parser.add_argument("--protocol", choices=["tcp", "udp"], default="tcp")
    parser.add_argument("--token", default="")
    parser.add_argument("--message-size", type=int, default=16 * 1024, help="bytes of a message")
    parser.add_argument("--text", action="store_true", help="send text messages instead of binary ones")
    parser.add_argument("--like-pion", action="store_true", help="candidates come early, and without an sdpMid")
    parser.add_argument("--vanish", action="store_true", help="end without a word when the offer is sent")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
