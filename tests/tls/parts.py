"""Certificates of every kind, right and wrong, and the two ends of a tunnel in one process."""

from __future__ import annotations

import base64
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import LogEvent
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings, ServerSettings, TunnelSettings
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.policy import Role, TlsSettings
from tests.leftovers import TestLog
from tests.patience import PATIENCE

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
DAY = timedelta(days=1)

KEYS: dict[str, Callable[[], Any]] = {
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
    "ECDSA": lambda: ec.generate_private_key(ec.SECP256R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "RSA": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
}

#: Keys that TLS does not take.
ODD_KEYS: dict[str, Callable[[], Any]] = {
    "brainpoolP256r1": lambda: ec.generate_private_key(ec.BrainpoolP256R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "RSA-1024": lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024),
}


class Holder:
    """A certificate and its key, in files.

    :ivar cert: the certificate's file.
    :ivar key: the key's file.
    """

    def __init__(self, directory: Path, name: str, certificate: x509.Certificate, key: Any) -> None:
        self.certificate = certificate
        self.private_key = key
        self.cert = directory / f"{name}.crt"
        self.key = directory / f"{name}.key"
        self.write()

    def write(self) -> None:
        self.cert.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        self.key.write_bytes(self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.key.chmod(0o600)

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()


class Authority(Holder):
    """A CA, in a directory of its own.

    :param issuer: the CA above it; None: it is a root.
    """

    def __init__(
        self,
        directory: Path,
        name: str = "test CA",
        kind: str = "ML-DSA-65",
        end: timedelta = 1000 * DAY,
        issuer: Authority | None = None,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        key = KEYS[kind]()
        now = datetime.now(UTC)
        above = _name(name) if issuer is None else issuer.certificate.subject
        builder = _builder(name, key, now - DAY, now + end).issuer_name(above)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        signer = key if issuer is None else issuer.private_key
        super().__init__(directory, "ca", builder.sign(signer, _hash(signer)), key)
        self._made = cache(self._make)
        self._issued: Counter[tuple[Any, ...]] = Counter()

    def copy(self, directory: Path) -> Authority:
        """The same CA in another directory. What the copies issue is made once: the n-th of a kind is the same."""
        directory.mkdir(exist_ok=True)
        found = copy(self)
        found.directory, found._issued = directory, Counter()
        Holder.__init__(found, directory, "ca", self.certificate, self.private_key)
        return found

    def issue(
        self,
        name: str,
        purpose: x509.ObjectIdentifier | None,
        *,
        hosts: Sequence[str] = (),
        kind: str = "ML-DSA-65",
        begin: timedelta = -DAY,
        end: timedelta = 100 * DAY,
        file: str = "",
        common_name: bool = True,
    ) -> Holder:
        """A certificate, from *begin* to *end* as seen from now."""
        wanted = (name if common_name else "", purpose, tuple(hosts), kind, begin, end)
        self._issued[wanted] += 1
        # What begins or ends while the test runs is its own.
        make = self._made if min(abs(begin), abs(end)) >= DAY else self._make
        return Holder(self.directory, file or name, *make(self._issued[wanted], *wanted))

    def _make(
        self,
        number: int,
        name: str,
        purpose: x509.ObjectIdentifier | None,
        hosts: Sequence[str],
        kind: str,
        begin: timedelta,
        end: timedelta,
    ) -> tuple[x509.Certificate, Any]:
        key = (KEYS | ODD_KEYS)[kind]()
        now = datetime.now(UTC)
        builder = _builder(name, key, now + begin, now + end).issuer_name(self.certificate.subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_host, hosts))), False)
        return builder.sign(self.private_key, _hash(self.private_key)), key

    def server(self, name: str = "server", hosts: Sequence[str] = ("127.0.0.1", "localhost"), **more: Any) -> Holder:
        return self.issue(name, SERVER, hosts=hosts, **more)

    def client(self, name: str = "laptop", **more: Any) -> Holder:
        return self.issue(name, CLIENT, **more)

    def revoke(self, *holders: Holder) -> None:
        """Write the list beside our certificate."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - DAY).next_update(now + DAY)
        for holder in holders:
            entry = x509.RevokedCertificateBuilder().serial_number(holder.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        revocations = builder.sign(self.private_key, _hash(self.private_key))
        part = self.directory / "ca.crl.part"
        part.write_bytes(revocations.public_bytes(Encoding.PEM))
        part.replace(self.directory / "ca.crl")

    def trusts(self, holder: Holder, **more: Any) -> TlsSettings:
        """What one end is given that has this certificate and trusts this CA."""
        return TlsSettings(holder.cert, holder.key, self.cert, **more)


def _host(host: str) -> x509.GeneralName:
    if host.startswith("DNS:"):
        return x509.DNSName(host.removeprefix("DNS:"))
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])


def _hash(key: Any) -> hashes.SHA256 | None:
    return hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None


def _builder(name: str, key: Any, begin: datetime, end: datetime) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(_name(name)).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(begin).not_valid_after(end)


def pem(der: bytes) -> str:
    """A certificate's file."""
    return f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"


def with_version(certificate: x509.Certificate, version: int) -> str:
    """The file of a certificate that says it is of this version, less one. Libraries have an exception of their own."""
    third = bytes.fromhex("a003020102")
    der = certificate.public_bytes(Encoding.DER)
    assert third in der
    return pem(der.replace(third, third[:-1] + bytes([version]), 1))


class Lines:
    """What has been logged, to wait for."""

    def __init__(self, log: TestLog, reactor: Any) -> None:
        self._log = log
        self._reactor = reactor

    @property
    def text(self) -> str:
        return self._log.text()

    @property
    def events(self) -> list[LogEvent]:
        return list(self._log.events)

    async def wait_for(self, regex: str, timeout: float = PATIENCE, count: int = 1) -> re.Match[str]:
        """Wait until *regex* matches in *count* places; the last of them."""
        await self.until(lambda: len(re.findall(regex, self.text)) >= count, regex, timeout)
        return list(re.finditer(regex, self.text))[-1]

    async def until(self, true: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
        """Wait until something is so."""
        deadline = self._reactor.seconds() + timeout
        while not true():
            if self._reactor.seconds() > deadline:
                raise AssertionError(f"not within {timeout} s: {what}\n{self.text}")
            await deferLater(self._reactor, 0.01)


class Ends:
    """A server and clients in this process.

    :ivar control: the server's control port.
    """

    def __init__(self, reactor: Any, lines: Lines) -> None:
        self.reactor = reactor
        self.lines = lines
        self.control = 0
        self._running: list[Any] = []

    def start_server(self, tls: TlsSettings | None = None, **more: Any) -> TunnelServer:
        listen = ListenAddress.parse(f"127.0.0.1:{self.control}")
        settings: dict[str, Any] = {"control_listen": listen, "drain": 0.0, "public_interface": "127.0.0.1"} | more
        server = TunnelServer(self.reactor, ServerSettings(tls=tls, **settings))
        self.start(server)
        self.control = int(server.control.local_address.rpartition(":")[2])
        return server

    def start_client(
        self,
        tls: TlsSettings | None = None,
        *,
        remote_port: int = 0,
        local: int = 9,
        port: int = 0,
        host: str = "127.0.0.1",
        **more: Any,
    ) -> TunnelClient:
        if tls is not None and not tls.server_name:
            tls = replace(tls, server_name=host)
        tunnel = TunnelSettings(remote_port, DialAddress.parse(f"127.0.0.1:{local}"))
        server = DialAddress.parse(f"{host}:{port or self.control}")
        settings: dict[str, Any] = {
            "drain": 0.0,
            "check_services": False,
            "reconnect_min": 60.0,
            "reconnect_max": 60.0,
            "tunnels": (tunnel,),
        } | more
        client = TunnelClient(self.reactor, ClientSettings(server=server, tls=tls, **settings))
        self.start(client)
        return client

    def start(self, service: Any) -> None:
        self._running.append(service)
        service.startService()

    async def stop(self, service: Any) -> None:
        self._running.remove(service)
        stopped = service.stopService()
        if stopped is not None:
            await stopped

    async def stop_all(self) -> None:
        for service in reversed(self._running[:]):
            await self.stop(service)


class _Echo(Protocol):
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class _Visitor(Protocol):
    """Sends something, and waits for as much to come back."""

    transport: Any

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._received = bytearray()
        self.answer: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._data)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if len(self._received) >= len(self._data) and not self.answer.called:
            self.answer.callback(bytes(self._received))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answer.called:
            self.answer.errback(reason)


class EchoService(Service):
    """Gives back what it is sent.

    :ivar port: where it listens, once it runs.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._listening: Any = None
        self.port = 0

    def startService(self) -> None:
        super().startService()
        self._listening = self._reactor.listenTCP(0, quiet(_Echo), interface="127.0.0.1")
        self.port = self._listening.getHost().port

    def stopService(self) -> Any:
        return self._listening.stopListening()


def quiet(build: Callable[[], Any]) -> Factory:
    """A factory for one kind of protocol."""
    factory = Factory.forProtocol(build)
    factory.noisy = False
    return factory


async def visit(reactor: Any, port: int, data: bytes = b"hello") -> bytes:
    """What comes back through a public port."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    visitor: Any = await endpoint.connect(quiet(lambda: _Visitor(data)))
    try:
        answer: bytes = await visitor.answer.addTimeout(PATIENCE, reactor)
        return answer
    finally:
        visitor.transport.abortConnection()


def wait_for_second(end: float) -> None:
    """OpenSSL, as certificates do, counts whole seconds."""
    while time.time() < end:
        time.sleep(0.02)


def server_of(authority: Authority, holder: Holder | None = None, **more: Any) -> Credentials:
    return Credentials(authority.trusts(holder or authority.server(), **more), Role.SERVER)


def client_of(authority: Authority, holder: Holder | None = None, **more: Any) -> Credentials:
    return Credentials(authority.trusts(holder or authority.client(), **more), Role.CLIENT)
