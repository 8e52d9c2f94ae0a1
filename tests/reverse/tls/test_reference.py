"""Peers that are not ours: TLS by the OpenSSL library through Twisted's own TLS, set up as the reference programs are.

Key exchange by pure MLKEM768, certificates of ML-DSA-65, TLS 1.3, both ends verified to a depth of 1, no look at names.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import pytest_twisted
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.addresses import ListenAddress
from rtunnel.testing import ReferenceClient, ReferenceServer
from rtunnel.testing.reference_client import ClientPeer
from tests.ports import free_port
from tests.process.harness import wait_until_open
from tests.tls.parts import Authority, EchoService, Ends, Holder, quiet, visit

LIBRARY: Any = Binding().lib


def reference_context(
    authority: Authority,
    holder: Holder | None,
    *,
    groups: str = "MLKEM768",
    signatures: str = "mldsa65",
    versions: tuple[int, int] = (SSL.TLS1_3_VERSION, SSL.TLS1_3_VERSION),
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(versions[0])
    context.set_max_proto_version(versions[1])
    assert LIBRARY.SSL_CTX_set1_curves_list(context._context, groups.encode()) == 1
    if signatures:
        assert LIBRARY.SSL_CTX_set1_sigalgs_list(context._context, signatures.encode()) == 1
    if holder is not None:
        context.use_certificate_chain_file(str(holder.cert))
        context.use_privatekey_file(str(holder.key))
    context.load_verify_locations(str(authority.cert))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    context.set_verify_depth(1)
    return context


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class Creator:
    """What Twisted's TLS asks for a connection."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, _protocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    clientConnectionForTLS = serverConnectionForTLS


class TlsReferenceServer(ReferenceServer):
    """The reference server with ``--tls``."""

    context: SSL.Context

    def _listen(self, number: int, build: Any) -> Any:
        if build != self._build_peer:
            return super()._listen(number, build)
        factory = quiet(Protocol)
        factory.buildProtocol = build  # type: ignore[method-assign]
        tls = TLSMemoryBIOFactory(Creator(self.context), False, factory)
        tls.noisy = False
        listening = self._reactor.listenTCP(number, tls, interface="127.0.0.1")
        self._listening.append(listening)
        return listening


class TlsReferenceClient(ReferenceClient):
    """The reference client with ``--tls``."""

    context: SSL.Context

    def _dial(self) -> None:
        self._again = None
        self.sockets = {}
        tls = TLSMemoryBIOFactory(Creator(self.context), True, quiet(lambda: ClientPeer(self)))
        tls.noisy = False
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self._server_port)
        self._dialling = endpoint.connect(tls)
        self._dialling.addErrback(self.lost)


@pytest.mark.parametrize("group", ["MLKEM768", "MLKEM1024", "MLKEM512", "X25519MLKEM768:MLKEM768"])
@pytest_twisted.ensureDeferred
async def test_reference_client(group: str, authority: Authority, ends: Ends) -> None:
    echo = EchoService(ends.reactor)
    ends.start(echo)
    ends.start_server(authority.trusts(authority.server()))
    port = free_port()
    client = TlsReferenceClient(ends.reactor, ends.control, echo.port, port, reconnect_delay=60)
    client.context = reference_context(authority, authority.client("theirs"), groups=group)
    ends.start(client)
    await ends.lines.wait_for(rf"127.0.0.1:{port} -> .* of client 127.0.0.1:\d+ \(theirs\): published")
    data = bytes(range(256)) * 4000
    assert await visit(ends.reactor, port, data) == data
    await ends.lines.wait_for(f"key exchange {group.partition(':')[0]}, certificate of 'theirs' .ML-DSA-65")


@pytest_twisted.ensureDeferred
async def test_silent_reference_client(authority: Authority, ends: Ends) -> None:
    """It waits on the shared port."""
    echo = EchoService(ends.reactor)
    ends.start(echo)
    server = ends.start_server(
        authority.trusts(authority.server()), public_listen=ListenAddress.parse("127.0.0.1:0"), handshake_timeout=5.0
    )
    client = TlsReferenceClient(ends.reactor, ends.control, echo.port, 0, reconnect_delay=60)
    client.context = reference_context(authority, authority.client("theirs"))
    ends.start(client)
    await ends.lines.until(lambda: len(server.shared_backends), "the client is in the pool")
    assert server.shared is not None
    port = int(server.shared.local_address.rpartition(":")[2])
    assert await visit(ends.reactor, port) == b"hello"


@pytest_twisted.ensureDeferred
async def test_reference_server(authority: Authority, ends: Ends) -> None:
    echo = EchoService(ends.reactor)
    ends.start(echo)
    server = TlsReferenceServer(ends.reactor)
    # Its users' certificates name no host, so its fingerprint has to do.
    holder = authority.issue("reference", None)
    server.context = reference_context(authority, holder)
    ends.start(server)
    port = free_port()
    pins = frozenset([holder.fingerprint])
    ends.start_client(
        authority.trusts(authority.client(), pins=pins), remote_port=port, local=echo.port, port=server.control_port
    )
    await ends.lines.until(lambda: server.public_port, "the reference server listens")
    data = bytes(range(256)) * 4000
    assert await visit(ends.reactor, port, data) == data
    await ends.lines.wait_for("key exchange MLKEM768, certificate of 'reference' .ML-DSA-65")


class Watcher(Protocol):
    """Notes why its connection ended."""

    def __init__(self) -> None:
        self.why: list[str] = []

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.why.append(str(reason.value))


@pytest.mark.parametrize(
    ("more", "line", "theirs"),
    [
        ({"holder": None}, "the client has no certificate", "certificate required"),
        (
            {"groups": "X25519:P-256"},
            "the client is refused: it offers no post-quantum key exchange",
            "handshake failure",
        ),
        (
            {"versions": (SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION), "signatures": "", "groups": "X25519"},
            "the client is refused: the other end speaks no TLS 1.3",
            "protocol version",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_refused_clients(more: dict[str, Any], line: str, theirs: str, authority: Authority, ends: Ends) -> None:
    server = ends.start_server(authority.trusts(authority.server()))
    holder = more.pop("holder", authority.client("theirs"))
    watcher = Watcher()
    tls = TLSMemoryBIOFactory(Creator(reference_context(authority, holder, **more)), True, quiet(lambda: watcher))
    tls.noisy = False
    await TCP4ClientEndpoint(ends.reactor, "127.0.0.1", ends.control).connect(tls)
    await ends.lines.wait_for(f"connection from .* closed: {line}")
    await ends.lines.until(lambda: watcher.why, "they know")
    assert theirs in watcher.why[0]
    assert not server.sessions


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"groups": "X25519:P-256"}, "the server has nothing in common with us: no post-quantum key exchange"),
        (
            {"versions": (SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION), "signatures": "", "groups": "X25519"},
            "the server does not speak TLS 1.3 with us",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_refused_servers(more: dict[str, Any], line: str, authority: Authority, ends: Ends) -> None:
    server = TlsReferenceServer(ends.reactor)
    server.context = reference_context(authority, authority.server(), **more)
    ends.start(server)
    ends.start_client(authority.trusts(authority.client()), port=server.control_port)
    await ends.lines.wait_for(f"cannot reach server .*: {line}")


@pytest_twisted.ensureDeferred
async def test_library_client_on_a_blocking_socket(authority: Authority, ends: Ends) -> None:
    """The plainest use of the OpenSSL library: one thread, one socket."""
    import socket

    ends.start_server(authority.trusts(authority.server()))
    context = reference_context(authority, authority.client("theirs"))
    port = free_port()

    groups = []

    def ask() -> None:
        raw = socket.create_connection(("127.0.0.1", ends.control))
        connection = SSL.Connection(context, raw)
        connection.set_connect_state()
        connection.do_handshake()
        payload = b"%d:127.0.0.1:9" % port
        connection.sendall(b"\x04" + bytes(4) + len(payload).to_bytes(4, "big") + payload)
        wait_until_open(port)
        frame = connection.recv(9)
        connection.shutdown()
        raw.close()
        assert frame[0] == 1
        groups.append(connection.get_group_name())

    # Not one of the reactor's threads: they would outlive the test.
    thread = threading.Thread(target=ask)
    thread.start()
    await ends.lines.until(lambda: not thread.is_alive(), "it is done")
    assert groups == ["MLKEM768"]
    await ends.lines.wait_for(r"client 127.0.0.1:\d+ \(theirs\) gone")
