"""Links that come up: over each group and each signature, by name and by pin, and what they know of each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted

from rtunnel.tls.listener import TlsListener
from rtunnel.tls.policy import GROUPS, TlsSettings
from tests.ports import free_port
from tests.tls.parts import DAY, Authority, EchoService, Ends, visit

CLASSICAL = ("ECDSA", "Ed25519", "Ed448", "RSA")


async def tunnel_works(ends: Ends, server: TlsSettings, client: TlsSettings, **more: Any) -> int:
    """Bring a tunnel up, and see that bytes pass; its public port."""
    echo = EchoService(ends.reactor)
    ends.start(echo)
    ends.start_server(server)
    port = free_port()
    ends.start_client(client, remote_port=port, local=echo.port, **more)
    await ends.lines.wait_for(rf"127.0.0.1:{port} is published")
    data = bytes(range(256)) * 1000
    assert await visit(ends.reactor, port, data) == data
    return port


@pytest.mark.parametrize("group", GROUPS)
@pytest_twisted.ensureDeferred
async def test_every_group(group: str, authority: Authority, ends: Ends) -> None:
    """The client insists; the server allows all."""
    server, client = authority.trusts(authority.server()), authority.trusts(authority.client(), groups=(group,))
    await tunnel_works(ends, server, client)
    await ends.lines.wait_for(
        rf"link 127.0.0.1:\d+: TLS 1.3, key exchange {group}, certificate of 'laptop' \(ML-DSA-65"
    )
    await ends.lines.wait_for(
        rf"link 127.0.0.1:\d+: TLS 1.3, key exchange {group}, certificate of 'server' \(ML-DSA-65"
    )


@pytest_twisted.ensureDeferred
async def test_hybrid_by_default(authority: Authority, ends: Ends) -> None:
    await tunnel_works(ends, authority.trusts(authority.server()), authority.trusts(authority.client()))
    await ends.lines.wait_for("key exchange X25519MLKEM768", count=2)


@pytest.mark.parametrize("kind", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
@pytest_twisted.ensureDeferred
async def test_every_signature(kind: str, tmp_path: Any, ends: Ends) -> None:
    authority = Authority(tmp_path / "pki", kind=kind)
    server, client = authority.server(kind=kind), authority.client(kind=kind)
    await tunnel_works(ends, authority.trusts(server), authority.trusts(client))
    await ends.lines.wait_for(rf"certificate of '(laptop|server)' \({kind}\)", count=2)


@pytest.mark.parametrize("kind", CLASSICAL)
@pytest_twisted.ensureDeferred
async def test_classical_certificates_where_allowed(kind: str, tmp_path: Any, ends: Ends) -> None:
    """The key exchange stays post-quantum."""
    authority = Authority(tmp_path / "pki", kind=kind)
    server = authority.trusts(authority.server(kind=kind), allow_classical_certs=True)
    client = authority.trusts(authority.client(kind=kind), allow_classical_certs=True)
    await tunnel_works(ends, server, client)
    await ends.lines.wait_for(rf"key exchange X25519MLKEM768, certificate of '(laptop|server)' \({kind}\)", count=2)


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        (["tunnel.example"], "tunnel.example"),
        (["*.tunnel.example"], "a.tunnel.example"),
        (["tunnel.example"], "TUNNEL.example."),
        (["127.0.0.1"], "127.0.0.1"),
        (["2001:db8::1"], "2001:db8::1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_names(hosts: list[str], name: str, authority: Authority, ends: Ends) -> None:
    server = authority.server(hosts=hosts)
    client = authority.trusts(authority.client(), server_name=name)
    await tunnel_works(ends, authority.trusts(server), client)


@pytest.mark.parametrize(("name", "seen"), [("tunnel.example", b"tunnel.example"), ("127.0.0.1", None)])
@pytest_twisted.ensureDeferred
async def test_server_name_indication(
    name: str, seen: bytes | None, authority: Authority, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    real = TlsListener.build_protocol

    def build(self: Any, transport: Any, peer: Any) -> Any:
        found.append(transport._engine.connection.get_servername())
        return real(self, transport, peer)

    monkeypatch.setattr(TlsListener, "build_protocol", build)
    client = authority.trusts(authority.client(), server_name=name)
    await tunnel_works(ends, authority.trusts(authority.server(hosts=[name])), client)
    assert set(found) == {seen}


@pytest_twisted.ensureDeferred
async def test_a_pin_replaces_the_name(authority: Authority, ends: Ends) -> None:
    server = authority.server(hosts=[])
    client = authority.trusts(authority.client(), pins=frozenset(["11" * 32, server.fingerprint]))
    await tunnel_works(ends, authority.trusts(server), client)


@pytest_twisted.ensureDeferred
async def test_a_pin_does_not_replace_the_authority(authority: Authority, ends: Ends, tmp_path: Any) -> None:
    stranger = Authority(tmp_path / "other").server()
    client = authority.trusts(authority.client(), pins=frozenset([stranger.fingerprint]))
    ends.start_server(TlsSettings(stranger.cert, stranger.key, authority.cert))
    ends.start_client(client)
    await ends.lines.wait_for("the server's certificate is refused: .* is not from a CA of --tls-ca")


@pytest_twisted.ensureDeferred
async def test_no_common_name(authority: Authority, ends: Ends) -> None:
    """Its first alternative name then."""
    client = authority.issue("", None, hosts=["laptop.example"], file="nameless")
    await tunnel_works(ends, authority.trusts(authority.server()), authority.trusts(client))
    await ends.lines.wait_for(r"client 127.0.0.1:\d+ \(laptop.example\) connected")


@pytest_twisted.ensureDeferred
async def test_without_extended_key_usage(authority: Authority, ends: Ends) -> None:
    """Those of the reference's users may say nothing of what they are for."""
    server, client = authority.issue("server", None, hosts=["127.0.0.1"]), authority.issue("client", None)
    await tunnel_works(ends, authority.trusts(server), authority.trusts(client))


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_ends_soon(authority: Authority, ends: Ends) -> None:
    server, client = authority.server(end=10 * DAY), authority.client(end=5 * DAY)
    await tunnel_works(ends, authority.trusts(server), authority.trusts(client))
    await ends.lines.wait_for("link .*: the certificate of 'laptop' expires in 4 days, on 20")
    await ends.lines.wait_for("the certificate of 'server' expires in 9 days, on 20", count=2)


@pytest_twisted.ensureDeferred
async def test_an_open_key(authority: Authority, ends: Ends) -> None:
    server = authority.server()
    server.key.chmod(0o644)
    ends.start_server(authority.trusts(server))
    await ends.lines.wait_for("server.key is open to every user of this machine; chmod 600 ")


@pytest_twisted.ensureDeferred
async def test_tcp_options_below_tls(authority: Authority, ends: Ends) -> None:
    import socket

    await tunnel_works(ends, authority.trusts(authority.server()), authority.trusts(authority.client()))
    server: Any = ends._running[1]
    (session,) = server.sessions
    handle = session.transport.tcp.getHandle()
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


@pytest_twisted.ensureDeferred
async def test_a_client_comes_back_with_its_certificate(authority: Authority, ends: Ends) -> None:
    """At once, although the server still believes in the old link."""
    port = await tunnel_works(
        ends, authority.trusts(authority.server()), authority.trusts(authority.client()), reconnect_min=0.01
    )
    client: Any = ends._running[2]
    session = client.link.session
    # The connection of the old link stays; the client dials again.
    session.ended.callback("cut by the test")
    session.ended = type(session.ended)()
    await ends.lines.wait_for(r"dropped: the same client came back from 127.0.0.1:\d+ \(laptop\)")
    await ends.lines.wait_for(rf"127.0.0.1:{port} is published", count=2)
    assert await visit(ends.reactor, port) == b"hello"


@pytest_twisted.ensureDeferred
async def test_the_session_of_another_is_no_take_over(authority: Authority, ends: Ends) -> None:
    """Who has heard of a session's name does not get its ports without its certificate."""
    port = await tunnel_works(ends, authority.trusts(authority.server()), authority.trusts(authority.client()))
    first: Any = ends._running[2]
    thief = ends.start_client(authority.trusts(authority.client("thief")), remote_port=port)
    assert thief.link.session is None
    thief.link._hello = replace(thief.link._hello, session=first.link._hello.session)
    text = rf"port-in-use: port {port} is served by another client \(client \S+ \(laptop\)\)"
    await ends.lines.wait_for(rf"\(thief\): port {port} refused: {text}")
    await ends.lines.wait_for(rf"port {port} refused by the server: port-in-use")
    assert "dropped" not in ends.lines.text
    assert await visit(ends.reactor, port) == b"hello"
