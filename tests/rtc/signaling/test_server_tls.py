"""The signaling server over TLS: what is negotiated, what is refused, and its files."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from rtunnel.addresses import ListenAddress
from rtunnel.errors import ConfigError
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.server import SignalServer
from rtunnel.tls.openssl import set_groups
from rtunnel.tls.web_server import explain_web_failure
from tests.no_collector import Left, no_collector
from tests.reverse.net import HOST, Peer, reactor, turns, until
from tests.rtc.signaling.server_parts import SignalWorld
from tests.tls.parts import DAY, Authority, Holder

#: A ClientHello of TLS 1.1 by hand, as this OpenSSL speaks it no more: ECDHE with AES and SHA-1.
HELLO_1_1 = bytes.fromhex("160301002f 0100002b 0302") + bytes(32) + bytes.fromhex("00 0004c009c013 0100")
#: The fatal alert `protocol_version`.
PROTOCOL_VERSION = bytes([2, 70])


@implementer(IOpenSSLClientConnectionCreator)
class Client:
    """The client's end of TLS, to look at afterwards."""

    def __init__(self, ca: Path, *groups: str, version: int | None = None, ciphers: bytes = b"") -> None:
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.load_verify_locations(str(ca))
        self._context.set_verify(SSL.VERIFY_PEER)
        if groups:
            set_groups(self._context, groups)
        if version is not None:
            self._context.set_max_proto_version(version)
        if ciphers:
            self._context.set_cipher_list(ciphers)
        self.connection: SSL.Connection

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        self.connection = SSL.Connection(self._context, None)
        return self.connection


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), kind="ECDSA")


@pytest.fixture
def holder(authority: Authority) -> Holder:
    return authority.server(kind="ECDSA")


async def start(signaling: SignalWorld, holder: Holder, **more: Any) -> SignalServer:
    return await signaling.start(cert=holder.cert, key=holder.key, **more)


@pytest.mark.parametrize(
    ("groups", "negotiated"),
    [
        ((), "X25519MLKEM768"),
        (("X25519", "X25519MLKEM768"), "X25519MLKEM768"),
        (("secp256r1", "X25519MLKEM768"), "X25519MLKEM768"),
        (("X25519",), "x25519"),
        (("secp256r1",), "secp256r1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_post_quantum_hybrid_is_preferred(
    signaling: SignalWorld, authority: Authority, holder: Holder, groups: tuple[str, ...], negotiated: str
) -> None:
    await start(signaling, holder, valid_tokens=("token",))
    tls = Client(authority.cert, *groups)
    host = await signaling.host(tls=tls, headers={"Authorization": "Bearer token"})
    assert (tls.connection.get_group_name() or "").lower() == negotiated.lower()
    assert tls.connection.get_protocol_version_name() == "TLSv1.3"
    client = await signaling.open(tls=Client(authority.cert), headers={"Authorization": "Bearer token"})
    client.put("offer", "host", "client", "x" * 60000)
    assert (await host.take())["payload"] == "x" * 60000
    refused = await signaling.open(tls=Client(authority.cert))
    assert " 401 " in refused.refused


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_cut_leaves_nothing_to_the_garbage_collector(
    signaling: SignalWorld, authority: Authority, holder: Holder
) -> None:
    await start(signaling, holder)
    with no_collector():
        tls = Client(authority.cert)
        host = await signaling.host(tls=tls)
        theirs = [one for one in gc.get_objects() if isinstance(one, SSL.Connection) and one is not tls.connection]
        left = Left(theirs)
        del theirs
        host.transport.abortConnection()
        await until(lambda: " gone" in "".join(signaling.lines("info")), "the server to notice")
        await turns()
        assert not left()


@pytest_twisted.ensureDeferred
async def test_tls_1_2(signaling: SignalWorld, authority: Authority, holder: Holder) -> None:
    await start(signaling, holder)
    tls = Client(authority.cert, version=SSL.TLS1_2_VERSION)
    await signaling.host(tls=tls)
    assert tls.connection.get_protocol_version_name() == "TLSv1.2"
    cipher = tls.connection.get_cipher_name() or ""
    assert cipher.startswith("ECDHE-")
    assert "GCM" in cipher or "CHACHA20" in cipher


@pytest.mark.parametrize(
    ("ciphers", "is_taken"),
    [
        (b"ECDHE-ECDSA-AES128-GCM-SHA256", True),
        (b"ECDHE-ECDSA-CHACHA20-POLY1305", True),
        (b"ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA", False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_ciphers_of_tls_1_2(
    signaling: SignalWorld, authority: Authority, holder: Holder, ciphers: bytes, is_taken: bool
) -> None:
    await start(signaling, holder)
    peer = await signaling.open(tls=Client(authority.cert, version=SSL.TLS1_2_VERSION, ciphers=ciphers))
    assert peer.opened is is_taken


async def warning(signaling: SignalWorld) -> str:
    """The one line about a connection that came to nothing."""
    await until(lambda: signaling.lines("warn"), "a line")
    (line,) = signaling.lines("warn")
    match = re.fullmatch(rf"connection from {HOST}:\d+ closed: (.*)", line)
    assert match, line
    return match[1]


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_know_the_ca(signaling: SignalWorld, holder: Holder, tmp_path: Path) -> None:
    await start(signaling, holder)
    peer = await signaling.open(tls=Client(Authority(tmp_path, "another CA", kind="ECDSA").cert))
    assert not peer.opened
    assert await warning(signaling) == "it refuses our certificate, as it does not know the CA; --ca-file tells it"


@pytest_twisted.ensureDeferred
async def test_a_client_without_a_cipher_in_common(
    signaling: SignalWorld, authority: Authority, holder: Holder
) -> None:
    await start(signaling, holder)
    tls = Client(authority.cert, version=SSL.TLS1_2_VERSION, ciphers=b"ECDHE-ECDSA-AES128-SHA")
    await signaling.open(tls=tls)
    assert await warning(signaling) == "it has no cipher in common with this server"


@pytest_twisted.ensureDeferred
async def test_failures_of_strangers_are_few_lines(signaling: SignalWorld, holder: Holder) -> None:
    await start(signaling, holder)
    for _ in range(30):
        await (await signaling.raw(HELLO_1_1)).ends()
    await until(lambda: not signaling.server.connections)
    assert len(signaling.lines("warn")) == 20


@pytest.mark.parametrize("says_hello", [True, False])
@pytest_twisted.ensureDeferred
async def test_who_leaves_in_the_handshake(signaling: SignalWorld, holder: Holder, says_hello: bool) -> None:
    """One that has said nothing is no reason to warn: load balancers look in like that."""
    await start(signaling, holder)
    peer = await signaling.raw(hello() if says_hello else b"")
    await until(lambda: len(signaling.server.connections) == 1 and (peer.received or not says_hello))
    peer.close()
    level = "warn" if says_hello else "debug"
    await until(lambda: any("closed: it closed the conn" in line for line in signaling.lines(level)), "a line")
    assert len(signaling.lines("warn")) == says_hello


def hello() -> bytes:
    """What a client of TLS 1.3 says first."""
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(9000)


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("ssl/tls alert certificate unknown", "it refuses our certificate; is its CA known there, "),
        ("sslv3 alert bad certificate", "it refuses our certificate; is it for the name"),
        ("http request", "it speaks no TLS; write wss:// there"),
        ("what nobody has heard of", "the TLS handshake failed (what nobody has heard of)"),
    ],
)
def test_what_the_errors_of_openssl_mean(reason: str, why: str) -> None:
    assert explain_web_failure(SSL.Error([("SSL routines", "", reason)])).startswith(why)


@pytest_twisted.ensureDeferred
async def test_tls_1_1_is_refused(signaling: SignalWorld, holder: Holder) -> None:
    await start(signaling, holder)
    peer = await signaling.raw(HELLO_1_1)
    await peer.ends()
    assert peer.received[:1] == b"\x15"
    assert peer.received[5:] == PROTOCOL_VERSION
    assert await warning(signaling) == "it speaks no TLS 1.2 or later"


@pytest.mark.parametrize("kind", ["RSA", "Ed25519", "ML-DSA-65"])
@pytest_twisted.ensureDeferred
async def test_kinds_of_keys(signaling: SignalWorld, authority: Authority, kind: str) -> None:
    await start(signaling, authority.server(f"server {kind}", kind=kind))
    await signaling.host(tls=Client(authority.cert))


@pytest_twisted.ensureDeferred
async def test_health(signaling: SignalWorld, authority: Authority, holder: Holder) -> None:
    await start(signaling, holder)
    peer = await signaling.open(tls=Client(authority.cert), path="/healthz")
    assert " 200 " in peer.refused


@pytest.mark.parametrize("data", [b"GET /healthz HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70000, bytes(100)])
@pytest_twisted.ensureDeferred
async def test_no_tls(signaling: SignalWorld, authority: Authority, holder: Holder, data: bytes) -> None:
    await start(signaling, holder)
    peer = await signaling.raw(data)
    await peer.ends()
    assert b"HTTP" not in peer.received
    assert await warning(signaling) == "it speaks no TLS; write wss:// there"
    await signaling.host(tls=Client(authority.cert))


@pytest.mark.parametrize("says", [lambda: b"", lambda: HELLO_1_1[:20], hello])
@pytest_twisted.ensureDeferred
async def test_a_handshake_that_does_not_end(signaling: SignalWorld, holder: Holder, says: Callable[[], bytes]) -> None:
    data = says()
    await start(signaling, holder)
    peer = await signaling.raw(data)
    is_hello = len(data) > 100
    # The server's answer shows that it has read the hello.
    await until(lambda: signaling.server.connections and (peer.received or not is_hello))
    connection: Any = next(iter(signaling.server.connections))
    connection._deadline = 0.0
    await peer.ends()
    await until(lambda: not signaling.server.connections)
    level = "warn" if is_hello else "debug"
    assert any("closed: no TLS handshake within 10 s" in line for line in signaling.lines(level))


@pytest_twisted.ensureDeferred
async def test_others_cannot_have_a_peer_dropped_that_reads_slowly(
    signaling: SignalWorld, authority: Authority, holder: Holder
) -> None:
    await start(signaling, holder, max_rate=1000)
    host = await signaling.host(tls=Client(authority.cert))
    peer = await signaling.host("peer", tls=Client(authority.cert))
    host.transport.pauseProducing()
    for _ in range(400):
        peer.put("candidate", "host", payload="x" * 60000)
    assert "reads too slowly" in await peer.take_error(about="host")
    assert "reads slowly" in str(signaling.lines("warn"))
    host.transport.resumeProducing()
    host.put("offer", "nobody at all")
    while (message := await host.take())["type"] == "candidate":
        pass
    assert (message["type"], message["sender_id"]) == ("error", "nobody at all")


@pytest_twisted.ensureDeferred
async def test_limits_of_an_address(signaling: SignalWorld, authority: Authority, holder: Holder) -> None:
    await start(signaling, holder, max_per_address=1)
    host = await signaling.host(tls=Client(authority.cert))
    refused: Peer = await signaling.raw()
    await refused.ends()
    await host.is_alive()


@pytest_twisted.ensureDeferred
async def test_stop(signaling: SignalWorld, authority: Authority, holder: Holder) -> None:
    server = await start(signaling, holder)
    host = await signaling.host(tls=Client(authority.cert))
    silent = await signaling.raw()
    await server.stopService()
    await host.ends(1001)
    await silent.ends()


# Files


@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_is_used(signaling: SignalWorld, tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old", kind="ECDSA"), Authority(tmp_path / "new", kind="ECDSA")
    holder, other = old.server(kind="ECDSA"), new.server(kind="ECDSA")
    await start(signaling, holder)
    host = await signaling.host(tls=Client(old.cert))
    holder.cert.write_bytes(other.cert.read_bytes())
    await until(lambda: any("cannot be used" in line for line in signaling.lines("warn")))
    await signaling.host("still the old one", tls=Client(old.cert))
    holder.key.write_bytes(other.key.read_bytes())
    await until(lambda: any("have changed" in line for line in signaling.lines("info")))
    await signaling.host("the new one", tls=Client(new.cert))
    await host.is_alive()
    assert len(signaling.lines("warn")) == 1


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_ends_soon(signaling: SignalWorld, authority: Authority) -> None:
    await start(signaling, authority.server("short-lived", kind="ECDSA", end=DAY))
    assert "expires in" in str(signaling.lines("warn"))


def _locked(holder: Holder) -> None:
    encryption = BestAvailableEncryption(b"secret")
    holder.key.write_bytes(holder.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda holder: holder.cert.unlink(), "crt cannot be read: No such file.*--tls-cert-file"),
        (lambda holder: holder.key.unlink(), "key cannot be read: No such file.*--tls-key-file"),
        (lambda holder: holder.cert.write_bytes(b""), "crt is not a certificate in PEM; .*--tls-cert-file"),
        (lambda holder: holder.key.write_bytes(b"x"), "key is not a private key in PEM; .*--tls-key-file"),
        (lambda holder: holder.cert.write_bytes(holder.key.read_bytes()), "crt is not a certificate in PEM"),
        (_locked, "key is locked by a passphrase"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, spoil: Callable[[Holder], None], complaint: str) -> None:
    holder = Authority(tmp_path / "ca", kind="ECDSA").server(kind="ECDSA")
    spoil(holder)
    with pytest.raises(ConfigError, match=complaint):
        SignalServer(reactor, SignalSettings(ListenAddress.parse("127.0.0.1:0"), holder.cert, holder.key))


@pytest.mark.parametrize("has_cert", [True, False])
def test_one_file_alone_is_not_the_end_of_tls(holder: Holder, has_cert: bool) -> None:
    files = (holder.cert, None) if has_cert else (None, holder.key)
    with pytest.raises(ConfigError, match="--tls-cert-file and --tls-key-file"):
        SignalServer(reactor, SignalSettings(ListenAddress.parse("127.0.0.1:0"), *files))


def test_a_key_of_another_certificate(authority: Authority, holder: Holder) -> None:
    other = authority.server("other", kind="ECDSA")
    with pytest.raises(ConfigError, match="is not the key of"):
        SignalServer(reactor, SignalSettings(ListenAddress.parse("127.0.0.1:0"), holder.cert, other.key))


@pytest_twisted.ensureDeferred
async def test_tokens_over_tls_are_no_reason_to_warn(signaling: SignalWorld, holder: Holder) -> None:
    await start(signaling, holder, addr="0.0.0.0:0", valid_tokens=("token",))
    assert signaling.lines("warn") == []
