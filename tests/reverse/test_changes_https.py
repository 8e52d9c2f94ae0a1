"""Names whose TLS ends at the client come, change and go while it runs."""

from __future__ import annotations

import http.client
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pytest_twisted import ensureDeferred
from twisted.internet.threads import deferToThread

from rtunnel.addresses import DialAddress
from rtunnel.errors import ConfigError
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.tls.policy import CertificateFiles
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.https import https_port, https_server
from tests.reverse.net import BOTH_PLANES, HOST, LocalService, Peer, until
from tests.reverse.world import World

NAME = "own.example.org"


def certificate(directory: Path, serial: int) -> CertificateFiles:
    """A certificate for the name, and its key, in files."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), serial)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, SHA256())
    )
    files = CertificateFiles(directory / f"{serial}.crt", directory / f"{serial}.key")
    files.certificate.write_bytes(made.public_bytes(Encoding.PEM))
    files.private_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files.private_key.chmod(0o600)
    return files


class Site(Peer):
    """Answers each request by its name; ``/later`` only when it is told to.

    :ivar is_asked: somebody waits for that.
    """

    is_asked = False

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name)
        self.on_data = self._asked

    def _asked(self, _data: bytes) -> None:
        if not self.received.endswith(b"\r\n\r\n"):
            return
        self.is_asked = self.received.startswith(b"GET /later")
        self.received.clear()
        if not self.is_asked:
            self.send(self.answer)

    def readConnectionLost(self) -> None:
        super().readConnectionLost()
        self.close()


class Visitor:
    """A browser with one connection."""

    def __init__(self, port: int) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = socket.create_connection((HOST, port), timeout=PATIENCE)
        self.socket = context.wrap_socket(connection, server_hostname=NAME)
        self._connection = http.client.HTTPConnection(NAME)
        self._connection.sock = self.socket

    def ask(self, path: str = "/") -> None:
        self._connection.request("GET", path)

    def answer(self) -> tuple[int, bytes]:
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def get(self) -> tuple[int, bytes]:
        self.ask()
        return self.answer()

    @property
    def serial(self) -> int:
        shown = self.socket.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number

    def is_over(self) -> bool:
        return self.socket.recv(1) == b""


async def site(world: World, name: bytes) -> LocalService:
    return await world.service(lambda: Site(name))


def named(service: LocalService, files: CertificateFiles) -> TunnelSettings:
    local = DialAddress.parse(f"{HOST}:{service.port}")
    return TunnelSettings(0, local, protocol="https", host=NAME, tls=files)


async def visitor(server: Any) -> Visitor:
    port = https_port(server)
    return await deferToThread(Visitor, port)


@BOTH_PLANES
@ensureDeferred
async def test_it_comes_changes_and_goes(world: World, tmp_path: Path) -> None:
    server, first, second = https_server(world), await site(world, b"first"), await site(world, b"second")
    files, others = certificate(tmp_path, 1), certificate(tmp_path, 2)
    client = world.client(server, (free_port(), 9))
    await world.reachable()
    [other] = [wanted.settings for wanted in client.link.wanted]
    await client.apply([other, named(first, files)])
    await world.reachable(2)
    early = await visitor(server)
    assert early.serial == 1
    assert await deferToThread(early.get) == (200, b"first")
    # Another service: also for the next request of who is there.
    await client.apply([other, named(second, files)])
    assert await deferToThread(early.get) == (200, b"second")
    # Another certificate, for who comes.
    await client.apply([other, named(second, others)])
    late = await visitor(server)
    assert late.serial == 2
    assert await deferToThread(late.get) == (200, b"second")
    assert await deferToThread(early.get) == (200, b"second")
    # Nothing: an answer that is under way comes to its end, and who waits for nothing is closed.
    early.ask("/later")
    await until(lambda: any(peer.is_asked for peer in second.peers))  # type: ignore[attr-defined]
    under_way = deferToThread(early.answer)
    await client.apply([other])
    assert await deferToThread(late.is_over)
    late.socket.close()
    [asked] = [peer for peer in second.peers if peer.is_asked]  # type: ignore[attr-defined]
    asked.send(Site(b"at last").answer)
    assert await under_way == (200, b"at last")
    assert (await deferToThread(early.get))[0] == 404
    assert early.socket.fileno() < 0, "with Connection: close"
    await until(lambda: not client.link.tls_hosts.https.connections and not client.link.tls_hosts.https.targets())
    assert not world.lines("link to server")
    # And again, after all.
    await client.apply([other, named(first, files)])
    await world.reachable(3)
    again = await visitor(server)
    assert (again.serial, await deferToThread(again.get)) == (1, (200, b"first"))
    again.socket.close()


@ensureDeferred
async def test_files_that_cannot_be_used_change_nothing(world: World, tmp_path: Path) -> None:
    server, service = https_server(world), await site(world, b"here")
    files = certificate(tmp_path, 1)
    client = world.client(server, (free_port(), 9))
    await world.reachable()
    [other] = [wanted.settings for wanted in client.link.wanted]
    await client.apply([other, named(service, files)])
    await world.reachable(2)
    broken = CertificateFiles(tmp_path / "none.crt", files.private_key)
    with pytest.raises(ConfigError, match=r"none\.crt"):
        client.apply([named(service, broken)])
    assert [wanted.number for wanted in client.link.wanted] == [0, 1]
    browser = await visitor(server)
    assert await deferToThread(browser.get) == (200, b"here")
    browser.socket.close()
