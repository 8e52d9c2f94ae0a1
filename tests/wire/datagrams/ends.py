"""Both ends of a UDP path, with and without a network between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.datagrams.messages import CHALLENGE, DATAGRAM, MAX_MESSAGE, PROBE, RESPONSE, encode_number
from rtunnel.wire.datagrams.packets import HEADER, Opener, Sealer
from rtunnel.wire.datagrams.path import AMPLIFICATION, Path
from rtunnel.wire.datagrams.path_mtu import STEPS
from rtunnel.wire.datagrams.pieces import MAX_KEPT

ID = 0xCAFEF00D
CLIENT_SECRET, SERVER_SECRET = bytes(range(32)), bytes(range(32, 64))
SERVER, HOME, AWAY, STRANGER = "server", "home", "away", "stranger"
"""Addresses: of the server, two of the client's, and one of somebody else."""

MOST_PROBES_AT_ONCE = 1 + max(map(len, STEPS)) + 1
"""Of the size in use, of a step of the search, and a small one."""

Packet = tuple[bytes, str, str]
"""The bytes, from where, and to where."""


def seals(secret: bytes = CLIENT_SECRET, cipher: Cipher = Cipher.AES_256_GCM, id: int = ID) -> tuple[Sealer, Opener]:
    """Return both ends of one direction."""
    return Sealer(id, secret, cipher), Opener(id, secret, cipher)


def make_client(now: float = 0.0, cipher: Cipher = Cipher.AES_256_GCM) -> Path[str]:
    sealer, opener = Sealer(ID, CLIENT_SECRET, cipher), Opener(ID, SERVER_SECRET, cipher)
    return Path(sealer, opener, now, is_server=False, address=SERVER)


def make_server(now: float = 0.0, cipher: Cipher = Cipher.AES_256_GCM) -> Path[str]:
    return Path(Sealer(ID, SERVER_SECRET, cipher), Opener(ID, CLIENT_SECRET, cipher), now, is_server=True)


def number_of(packet: bytes) -> int:
    number: int = HEADER.unpack_from(packet)[1]
    return number


def datagram(text: str, size: int = 0) -> bytes:
    """Return DATAGRAM, padded to *size* bytes."""
    return encode_number(DATAGRAM, 1, text.encode()).ljust(size, b".")


class Network:
    """A client, a server, and a network that the test spoils. Nothing takes time unless the test says so.

    :ivar home: the client's address.
    :ivar mtu: the largest packet that gets through.
    :ivar interface: the largest packet that the ends' systems send.
    :ivar passes: decides of each packet whether it gets through.
    :ivar got: what each end has received, by its name.
    :ivar log: all packets that were sent.
    :ivar flying: those that are on their way.
    """

    def __init__(self, cipher: Cipher = Cipher.AES_256_GCM) -> None:
        self.now = 1000.0
        self.client, self.server = make_client(self.now, cipher), make_server(self.now, cipher)
        self.home = HOME
        self.mtu = self.interface = 65507
        self.passes: Callable[[Packet], bool] = lambda packet: True
        self.got: dict[str, list[bytes]] = {"client": [], "server": []}
        self.log: list[Packet] = []
        self.flying: list[Packet] = []
        self.received: Counter[str] = Counter()
        self.unproved: Counter[str] = Counter()

    def collect(self) -> None:
        """Put what both ends want to send on its way."""
        for path, source in ((self.client, self.home), (self.server, SERVER)):
            for packet, address in path.take():
                assert len(packet) <= 65507
                if len(packet) > self.interface:
                    path.too_large(len(packet), self.now)
                    continue
                self.log.append((packet, source, address))
                self.flying.append((packet, source, address))
                if path is self.server and address != self.server.address:
                    self.unproved[address] += len(packet)
                    assert self.unproved[address] <= AMPLIFICATION * self.received[address]

    def arrive(self, packet: Packet) -> None:
        """Let a packet arrive, if it can."""
        data, source, address = packet
        if len(data) > self.mtu or not self.passes(packet):
            return
        if address == SERVER:
            self.received[source] += len(data)
            message = self.server.receive(data, source, self.now)
            name = "server"
        elif address == self.home:
            message = self.client.receive(data, source, self.now)
            name = "client"
        else:
            return
        if message is not None:
            self.got[name].append(message)
        self.collect()

    def settle(self) -> None:
        """Let everything arrive that is on its way, and the answers to it."""
        self.collect()
        while self.flying:
            self.arrive(self.flying.pop(0))

    def run(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.tick()
            self.settle()
            self.now += step

    def tick(self) -> None:
        self.client.tick(self.now)
        self.server.tick(self.now)
        self.collect()

    def send(self, path: Path[str], message: bytes) -> None:
        path.send(message, self.now)
        self.settle()

    def states(self) -> set[bool]:
        """Return whether the ends take the path for open."""
        return {self.client.is_open, self.server.is_open}

    def open(self) -> None:
        """Open the path."""
        self.run(0.25)
        assert self.states() == {True}


def opened() -> Network:
    """Return a network with a path that is open."""
    network = Network()
    network.open()
    return network


class Peer:
    """What one end sends, sealed by hand, and read by hand.

    :ivar path: the end under test.
    """

    def __init__(self, *, is_server: bool) -> None:
        self.path = make_server() if is_server else make_client()
        ours, theirs = (CLIENT_SECRET, SERVER_SECRET) if is_server else (SERVER_SECRET, CLIENT_SECRET)
        self.sealer, self.opener = seals(ours)[0], seals(theirs)[1]
        self.source = HOME if is_server else SERVER

    def feed(self, message: bytes, source: str = "", now: float = 0.0) -> bytes | None:
        return self.path.receive(self.sealer.seal(message), source or self.source, now)

    def sent(self, now: float = 0.0) -> list[tuple[bytes, str]]:
        """Return the messages that the end has sent, and to whom."""
        return [(self.opener.open(packet, now), address) for packet, address in self.path.take()]

    def refuses(self, packet: bytes, source: str) -> None:
        """Feed what a stranger sends."""
        path = self.path
        before = path.address, path.is_open, path.mtu.size, path.held, path.refused + 1
        assert path.receive(packet, source, 0.0) is None
        assert (path.address, path.is_open, path.mtu.size, path.held, path.refused) == before
        assert path.take() == []

    def survives(self, found: Iterable[tuple[int, bytes, str]]) -> None:
        """Feed authentic messages: tenths of a second since the last one, the message, and where it is from."""
        now = 0.0
        for wait, message, source in found:
            now += wait / 10
            answer = self.feed(message, source, now)
            if answer is not None:
                assert answer[0] >= DATAGRAM
                assert len(answer) <= MAX_MESSAGE
            self.path.tick(now)
            assert len(self.path.take()) <= MOST_PROBES_AT_ONCE + 2
            assert self.path.held <= MAX_KEPT

    def answer_challenge(self, source: str = HOME) -> None:
        """Be at an address."""
        self.feed(encode_number(PROBE, 1), source)
        (challenge, *_) = [message for message, to in self.sent() if message[0] == CHALLENGE and to == source]
        self.feed(bytes((RESPONSE,)) + challenge[1:], source)
        assert self.path.is_open
        assert self.path.address == source


def open_server() -> Peer:
    peer = Peer(is_server=True)
    peer.answer_challenge()
    return peer
