"""QUIC through a UDP tunnel, with aioquic at both ends."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from tests.ports import free_port
from tests.process.harness import Twistds
from tests.process.services import LOOPBACK, Background, Tunnel
from tests.process.tls_services import UnderTls
from tests.tls.parts import Authority

AMOUNT = 1024 * 1024
ANY = b"what is sent, again and again "
SENT = (ANY * (AMOUNT // len(ANY) + 1))[:AMOUNT]

#: What a client sends whose path MTU discovery has found Ethernet, by IPv6. aioquic does not search; it takes a size.
DATAGRAM = 1452


def do_not_fragment() -> socket.socket:
    """A socket whose datagrams are not cut into pieces on their way: QUIC demands it (RFC 9000, section 14)."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_MTU_DISCOVER", 10), 2)
    made.bind((LOOPBACK, 0))
    return made


class Counting(QuicConnectionProtocol):
    """A protocol that notes how large datagrams are."""

    largest = 0

    def datagram_received(self, data: bytes | str, addr: object) -> None:
        self.largest = max(self.largest, len(data))
        super().datagram_received(data, addr)


async def digest_of_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A service: read to the end, and send the same back in front of its digest."""
    data = await reader.read()
    writer.write(data + hashlib.sha256(data).digest())
    writer.write_eof()


async def exchange(quic: QuicConfiguration, ca: Path, service: socket.socket, port: int) -> None:
    """Serve QUIC at *service*, and be its client by *port*."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def serve_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = loop.create_task(digest_of_all(reader, writer))
        tasks.add(task)

    serving, _ = await loop.create_datagram_endpoint(
        lambda: QuicServer(configuration=quic, stream_handler=serve_stream), sock=service
    )
    wanted = QuicConfiguration(alpn_protocols=["test"], max_datagram_size=DATAGRAM, server_name="localhost")
    wanted.load_verify_locations(str(ca))
    asking, client = await loop.create_datagram_endpoint(
        lambda: Counting(QuicConnection(configuration=wanted)), sock=do_not_fragment()
    )
    client.connect((LOOPBACK, port))
    await client.wait_connected()
    reader, writer = await client.create_stream()
    writer.write(SENT)
    writer.write_eof()
    answer = await reader.read()
    client.close()
    await client.wait_closed()
    asking.close()
    for task in tasks:
        await task
    serving.close()
    assert answer == SENT + hashlib.sha256(SENT).digest()
    assert client.largest == DATAGRAM


@pytest.mark.parametrize("tls", [False, True])
def test_a_megabyte_each_way(tls: bool, twistd: Twistds, start_tunnel: Callable[..., Tunnel], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.server()
    authority.client("laptop", file="client")
    classical = Authority(tmp_path / "quic", kind="ECDSA")
    holder = classical.server(hosts=["localhost"], kind="ECDSA")
    quic = QuicConfiguration(is_client=False, alpn_protocols=["test"], max_datagram_size=DATAGRAM)
    quic.load_cert_chain(str(holder.cert), str(holder.key))
    service, port = do_not_fragment(), free_port()
    start = UnderTls(twistd, authority.directory).tunnel if tls else start_tunnel
    tunnel = start(f"{LOOPBACK}:9", client=[f"--publish=udp:{port}={LOOPBACK}:{service.getsockname()[1]}"])
    tunnel.server.wait_for("datagrams go by UDP$")
    # The test itself is in the loop of the reactor.
    Background(lambda: asyncio.run(exchange(quic, classical.cert, service, port))).join()
