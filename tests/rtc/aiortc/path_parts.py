"""Two ends whose DTLS handshake is over, and what they use: sockets that count, and that refuse."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsParameters, RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport
from OpenSSL import SSL

from rtunnel.rtc.aiortc.dtls import Certificate, DtlsTransport
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.records import Path
from tests.reverse.net import until
from tests.rtc.aiortc.ice_parts import Agents, run


class Socket(socket.socket):
    """It counts calls. A test may set *refuse*, which returns an error for a kind of call and the size of a packet."""

    calls: ClassVar[Counter[str]] = Counter()
    refuse: Callable[[str, int], OSError | None] | None = None

    def _count(self, name: str, size: int) -> None:
        type(self).calls[name] += 1
        error = self.refuse and self.refuse(name, size)
        if error:
            raise error

    def sendto(self, data: Any, *where: Any) -> int:
        self._count("sendto", len(data))
        return super().sendto(data, *where)

    def sendmsg(self, buffers: Any, ancillary: Any = (), *rest: Any) -> int:
        self._count("sendmsg", int.from_bytes(ancillary[0][2], "little"))
        return super().sendmsg(buffers, ancillary, *rest)

    def recvmsg_into(self, *arguments: Any) -> Any:
        self._count("recvmsg_into", 0)
        return super().recvmsg_into(*arguments)


class End:
    """One end; it starts like a peer connection, and gives DTLS to a path once the handshake is over.

    :ivar got: the packets of each call.
    :ivar too_big: sizes that were refused.
    :ivar greeting: what it sends as soon as it can.
    """

    def __init__(self, agent: IceAgent, role: str, certificate: RTCCertificate) -> None:
        self.agent = agent
        gatherer = RTCIceGatherer(iceServers=[])
        gatherer._connection = agent
        self.dtls = DtlsTransport(RTCIceTransport(gatherer), [certificate])
        self.dtls._set_role(role)
        self.got: list[list[bytes]] = []
        self.too_big: list[int] = []
        self.greeting: list[bytes] = []
        self.path: Path

    @property
    def packets(self) -> list[bytes]:
        return [packet for packets in self.got for packet in packets]

    async def start(self, other: RTCDtlsParameters) -> None:
        await self.dtls.start(other)
        self.path = Path(self.dtls, self.agent, self.got.append, self.too_big.append)
        self.path.send(self.greeting)

    @property
    def connection(self) -> SSL.Connection:
        assert self.dtls._ssl is not None
        return self.dtls._ssl

    @property
    def socket(self) -> Socket:
        pair = self.agent.selected
        assert pair is not None
        found = pair.protocol.transport.get_extra_info("socket")
        assert isinstance(found, Socket)
        return found


class Paths:
    """Ends that end with the test."""

    def __init__(self, agents: Agents) -> None:
        self.agents = agents
        self.ends: list[End] = []

    async def ready(self, server: RTCCertificate | None = None) -> tuple[End, End]:
        """Two ends before their handshake: the server, and the client."""
        agents = await self.agents.pair()
        one = End(agents[0], "server", server or Certificate.generateCertificate())
        two = End(agents[1], "client", Certificate.generateCertificate())
        self.ends += one, two
        return one, two

    @staticmethod
    async def start(one: End, two: End) -> None:
        await run(asyncio.gather(one.start(two.dtls.getLocalParameters()), two.start(one.dtls.getLocalParameters())))
        assert one.dtls.state == two.dtls.state == "connected"
        Socket.calls.clear()

    async def pair(self, server: RTCCertificate | None = None) -> tuple[End, End]:
        one, two = await self.ready(server)
        await self.start(one, two)
        return one, two


async def arrive(end: End, count: int) -> list[bytes]:
    """Wait until *end* has so many packets."""
    await until(lambda: len(end.packets) >= count, f"{count} packets")
    return end.packets


async def finish(dtls: RTCDtlsTransport) -> None:
    await until(lambda: dtls.state == "closed", "the end of DTLS")


@pytest.fixture
def paths(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paths]:
    monkeypatch.setattr("rtunnel.rtc.aiortc.udp_socket.socket.socket", Socket)
    made = Paths(agents)
    yield made
    Socket.calls.clear()
    for end in made.ends:
        if hasattr(end, "path"):
            end.path.close()
            end.dtls.ended()
        end.dtls.remove_all_listeners()
