"""Two ends of a sealed peer connection in memory, and somebody between them who may change what they send."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from twisted.internet.task import Clock

from rtunnel.access.identities import Identity, ephemeral_identity
from rtunnel.access.trust import OpenTrust, PeerIdentity, Trust, Verdict
from rtunnel.rtc.sealed.channel import SealedChannel
from rtunnel.rtc.sealed.end import SealedEnd
from rtunnel.rtc.sealed.sealing import Confirmation, Sealing
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.wire.webrtc.sealed_keys import Side
from tests.rtc.fake_channel import FakeChannel
from tests.rtc.fakes import FakeChannelUser, FakeConnection, FakeNetwork, FakePeer

#: What the ends see of each other in DTLS.
DTLS = {Side.HOST: b"h" * 32, Side.CLIENT: b"c" * 32}


@cache
def identity(name: str) -> Identity:
    """An identity that is the same in all tests of a process."""
    return ephemeral_identity()


class Says:
    """Trust that says what the test wants: a refusal, or nothing.

    :ivar asked: about whom it was asked.
    """

    is_closed = True

    def __init__(self, refusal: str = "", name: str = "a friend") -> None:
        self.verdict = Verdict(refusal, name=name)
        self.asked: list[PeerIdentity] = []

    def judge(self, peer: PeerIdentity) -> Verdict:
        self.asked.append(peer)
        return self.verdict


class Connection(FakeConnection):
    """A connection on which somebody may change the messages that arrive.

    :ivar change: returns what arrives for a message on a channel of this label; None: nothing does.
    """

    def __init__(self, network: FakeNetwork, user: Any, side: Side) -> None:
        super().__init__(network, user, len(network.connections))
        network.connections.append(self)
        self.fingerprints = DTLS[side], DTLS[side.other]
        self.change: Callable[[str, bytes], bytes | None] = lambda _label, data: data

    def _data_arrived(self, other: FakeChannel, data: bytes) -> None:
        changed = self.change(other.label, data)
        if changed is not None:
            super()._data_arrived(other, changed)


class MemoryEnd(FakePeer):
    """An end.

    :ivar told: what happened, in order: ``ready``, ``failed``, ``given up``.
    :ivar why: why it was given up.
    :ivar users: of the channels that have arrived.
    """

    def __init__(
        self,
        network: FakeNetwork,
        clock: Clock,
        side: Side,
        trust: Trust | None,
        confirm: Confirmation | None,
        who: Identity | None,
        hedges: Hedges | None,
    ) -> None:
        super().__init__()
        self.connection = Connection(network, self, side)
        self.sealing = Sealing(side, who or identity(side), trust or OpenTrust(), hedges or Hedges(None, ()))
        peer_id = "cottage" if side is Side.CLIENT else ""
        self.end = SealedEnd(self.sealing, self.connection, peer_id, clock, self, lambda: confirm)
        self.news: list[str] = []
        self.why = ""
        self.users: list[FakeChannelUser] = []
        self.channels: list[SealedChannel] = []

    # Of the connection

    def connected(self) -> None:
        super().connected()
        self.end.connected()

    def channel_arrived(self, channel: object) -> None:
        assert isinstance(channel, FakeChannel)
        self.end.channel_arrived(channel)

    # Of the sealed end

    def ready(self) -> None:
        self.news.append("ready")

    def accepted(self) -> None:
        self.news.append("accepted")

    def has_room(self) -> None:
        pass

    def sealing_failed(self) -> None:
        self.news.append("failed")

    def sealed_channel_arrived(self, channel: SealedChannel) -> None:
        user = FakeChannelUser()
        channel.use(user)
        self.channels.append(channel)
        self.users.append(user)

    def give_up(self, reason: str) -> None:
        self.news.append("given up")
        self.why = reason
        self.connection.close()
        self.end.close()

    def lost(self, reason: str) -> None:
        super().lost(reason)
        self.why = self.end.why or reason
        self.end.close()

    # By the test

    def open(self, service: str = "web", *, reliable: bool = True) -> tuple[SealedChannel, FakeChannelUser]:
        channel, user = self.end.channels.open_channel("label", service, reliable), FakeChannelUser()
        channel.use(user)
        return channel, user


class Pair:
    """A host and a client.

    :param host_trust: whom the host accepts; None: everybody.
    :param client_trust: whom the client accepts.
    :param hedges: of the host and of the client.
    """

    def __init__(
        self,
        host_trust: Trust | None = None,
        client_trust: Trust | None = None,
        confirm: tuple[Confirmation | None, Confirmation | None] = (None, None),
        client: Identity | None = None,
        host: Identity | None = None,
        hedges: tuple[Hedges | None, Hedges | None] = (None, None),
    ) -> None:
        self.network = FakeNetwork()
        self.clock = Clock()
        self.host = MemoryEnd(self.network, self.clock, Side.HOST, host_trust, confirm[0], host, hedges[0])
        self.client = MemoryEnd(self.network, self.clock, Side.CLIENT, client_trust, confirm[1], client, hedges[1])
        self.ends = self.host, self.client

    def connect(self) -> Pair:
        """Connect, and let everything arrive."""
        self.host.connection.connect(self.client.connection)
        self.settle()
        return self

    def settle(self) -> None:
        self.network.settle()
        self.clock.advance(0)
        self.network.settle()

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    def close(self) -> None:
        for end in self.ends:
            if not end.why:
                end.give_up("the test is over")
        self.clock.advance(0)
        assert not self.clock.getDelayedCalls()
