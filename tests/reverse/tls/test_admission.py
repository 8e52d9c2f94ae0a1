"""Who may do what: tokens and the clients file, at a real server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.tokens import parse_tokens
from rtunnel.addresses import ListenAddress
from rtunnel.relay.sockets import is_local
from rtunnel.testing import ReferenceClient
from tests.ports import free_port
from tests.tls.parts import Authority, EchoService, Ends, visit

TOKEN = "correct-horse"


@pytest.fixture
def clients(tmp_path: Path) -> Any:
    """Writes the clients file, as an editor would: another file in its place."""
    path = tmp_path / "clients.yaml"

    def write(text: str) -> Path:
        part = tmp_path / "clients.part"
        part.write_text(text)
        part.replace(path)
        return path

    return write


def settings(clients: Path | None = None, tokens: str = "", **more: Any) -> AdmissionSettings:
    return AdmissionSettings(clients, parse_tokens(tokens), **more)


def test_local_addresses() -> None:
    assert is_local(IPv4Address("TCP", "127.5.0.1", 1))
    assert is_local(IPv6Address("TCP", "::1", 1))
    assert is_local(IPv6Address("TCP", "::ffff:127.0.0.1", 1))
    assert is_local(UNIXAddress("/x"))
    assert not is_local(IPv4Address("TCP", "192.0.2.1", 1))
    assert not is_local(IPv4Address("TCP", "0.0.0.0", 1))
    assert not is_local(IPv6Address("TCP", "::", 1))
    assert not is_local(IPv6Address("TCP", "fe80::1%eth0", 1))


# Tokens at a server


async def reachable(ends: Ends, tls: Any = None, **more: Any) -> int:
    """A client whose tunnel comes up; its public port."""
    echo = EchoService(ends.reactor)
    ends.start(echo)
    port = free_port()
    ends.start_client(tls, remote_port=port, local=echo.port, **more)
    await ends.lines.wait_for(rf"127.0.0.1:{port} is published")
    assert await visit(ends.reactor, port) == b"hello"
    return port


@pytest_twisted.ensureDeferred
async def test_the_right_token(ends: Ends) -> None:
    ends.start_server(admission=settings(tokens=f"laptop:{TOKEN}"))
    await reachable(ends, token=TOKEN)
    assert TOKEN not in ends.lines.text


@pytest.mark.parametrize(
    ("token", "why"),
    [("wrong-horse", "the client's token is not valid"), (None, "the client has no token, and needs one")],
)
@pytest_twisted.ensureDeferred
async def test_another_token(token: str | None, why: str, ends: Ends) -> None:
    server = ends.start_server(admission=settings(tokens=TOKEN))
    ends.start_client(token=token, remote_port=free_port())
    await ends.lines.wait_for(rf"link 127.0.0.1:\d+: closed by us: unauthorized: {why}")
    await ends.lines.wait_for(rf"link to server 127.0.0.1:\d+ lost: unauthorized: {why}; next attempt")
    assert len(re.findall(f"#warn.*{why}", ends.lines.text)) == 2, "one warning at each end"
    await ends.lines.until(lambda: not server.sessions, "the session is gone")
    assert not len(server.ports)


@pytest_twisted.ensureDeferred
async def test_a_reference_client_has_no_token(ends: Ends) -> None:
    server = ends.start_server(admission=settings(tokens=TOKEN))
    client = ReferenceClient(ends.reactor, ends.control, 9, free_port(), reconnect_delay=60)
    ends.start(client)
    await ends.lines.wait_for("closed by us: unauthorized: the client has no token, and needs one")
    await ends.lines.until(lambda: not server.sessions and not len(server.ports), "the session is gone")


@pytest_twisted.ensureDeferred
async def test_a_silent_client_never_joins_the_pool(ends: Ends) -> None:
    """Where a token is wanted, silence is no way in; it ends with the time for the handshake."""
    server = ends.start_server(
        admission=settings(tokens=TOKEN), public_listen=ListenAddress.parse("127.0.0.1:0"), handshake_timeout=1.5
    )
    ends.start(ReferenceClient(ends.reactor, ends.control, 9, 0, reconnect_delay=60))
    await ends.lines.until(lambda: len(server.door), "the client is there")
    for _ in range(20):
        assert not len(server.shared_backends)
        await ends.lines.until(lambda: True, "")
    await ends.lines.wait_for("closed: it asked for nothing within 1.5 s")
    assert not len(server.shared_backends)


@pytest_twisted.ensureDeferred
async def test_a_token_with_tls_is_asked_for_too(authority: Authority, ends: Ends) -> None:
    """A setting about authentication is never without effect."""
    server, client = authority.trusts(authority.server()), authority.trusts(authority.client())
    ends.start_server(server, admission=settings(tokens=TOKEN))
    ends.start_client(client, remote_port=free_port())
    await ends.lines.wait_for("unauthorized: the client has no token, and needs one", count=2)
    await reachable(ends, client, token=TOKEN)


@pytest_twisted.ensureDeferred
async def test_a_token_over_plain_tcp(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.reverse.server.session.is_local", lambda _: False)
    ends.start_server(admission=settings(tokens=TOKEN))
    ends.start_client(token=TOKEN, remote_port=free_port())
    await ends.lines.wait_for("unauthorized: the client's token came over plain TCP; use --tls", count=2)
    ends.control = 0
    ends.start_server(admission=settings(tokens=TOKEN, token_over_plain_tcp=True))
    await reachable(ends, token=TOKEN)


# The clients file at a server


@pytest_twisted.ensureDeferred
async def test_ports_by_certificate(authority: Authority, ends: Ends, clients: Any) -> None:
    mine, others = free_port(), free_port()
    path = clients(f"laptop: {{ports: {mine}}}\nphone: {{ports: {others}}}\n")
    server = ends.start_server(authority.trusts(authority.server()), admission=settings(path))
    tls = authority.trusts(authority.client())
    ends.start_client(tls, remote_port=others)
    text = f"port-not-allowed: port {others} is not among those allowed to this client: {mine}"
    await ends.lines.wait_for(rf"client 127.0.0.1:\d+ \(laptop\): port {others} refused: {text}")
    await ends.lines.wait_for(rf"port {others} refused by the server: {text}")
    assert not len(server.ports)
    ends.start_client(tls, remote_port=mine)
    await ends.lines.wait_for(rf"127.0.0.1:{mine} is published")


@pytest_twisted.ensureDeferred
async def test_not_in_the_file(authority: Authority, ends: Ends, clients: Any) -> None:
    server = ends.start_server(authority.trusts(authority.server()), admission=settings(clients("phone:")))
    ends.start_client(authority.trusts(authority.client()), remote_port=free_port())
    await ends.lines.wait_for("unauthorized: the clients file does not let 'laptop' in", count=2)
    await ends.lines.until(lambda: not server.sessions, "the session is gone")


@pytest_twisted.ensureDeferred
async def test_ports_by_token(ends: Ends, clients: Any) -> None:
    port = free_port()
    path = clients(f"laptop: {{token: {TOKEN}, ports: {port}}}")
    ends.start_server(admission=settings(path))
    ends.start_client(token=TOKEN, remote_port=free_port())
    await ends.lines.wait_for("port-not-allowed", count=2)
    ends.start_client(token=TOKEN, remote_port=port)
    await ends.lines.wait_for(rf"127.0.0.1:{port} is published")
    ends.start_client(remote_port=port)
    await ends.lines.wait_for("unauthorized: the client has no token, and needs one", count=2)


@pytest_twisted.ensureDeferred
async def test_number_of_tunnels_over_all_links(authority: Authority, ends: Ends, clients: Any) -> None:
    ends.start_server(authority.trusts(authority.server()), admission=settings(clients("laptop: {tunnels: 1}")))
    tls = authority.trusts(authority.client())
    await reachable(ends, tls)
    ends.start_client(tls, remote_port=free_port())
    await ends.lines.wait_for(r"\(laptop\): port \d+ refused: limit: this client may have 1 tunnels")


@pytest_twisted.ensureDeferred
async def test_number_of_streams(authority: Authority, ends: Ends, clients: Any) -> None:
    path = clients("laptop: {streams: 0}")
    ends.start_server(authority.trusts(authority.server()), admission=settings(path))
    with pytest.raises(Exception, match=r"lost|clean|reset"):
        await reachable(ends, authority.trusts(authority.client()))
    await ends.lines.wait_for(r"cannot take a visitor of port \d+: this client may serve 0 visitors at once")
    clients("laptop: {streams: 1}")
    await ends.lines.wait_for("the clients file has changed, and is in use now")
    port = int((await ends.lines.wait_for(r"127.0.0.1:(\d+) is published"))[1])
    assert await visit(ends.reactor, port) == b"hello"


@pytest_twisted.ensureDeferred
async def test_the_shared_port(authority: Authority, ends: Ends, clients: Any) -> None:
    server = ends.start_server(
        authority.trusts(authority.server()),
        admission=settings(clients("laptop: {shared: no}\nphone: {shared: yes}")),
        public_listen=ListenAddress.parse("127.0.0.1:0"),
    )
    ends.start_client(authority.trusts(authority.client()))
    await ends.lines.wait_for("port-not-allowed: this client may not serve the shared public port", count=2)
    assert not len(server.shared_backends)
    ends.start_client(authority.trusts(authority.client("phone")))
    await ends.lines.until(lambda: len(server.shared_backends), "the other is in the pool")


@pytest_twisted.ensureDeferred
async def test_what_may_no_longer_be_is_taken_away(authority: Authority, ends: Ends, clients: Any) -> None:
    path = clients("laptop:\nphone:\n")
    server = ends.start_server(authority.trusts(authority.server()), admission=settings(path))
    port = await reachable(ends, authority.trusts(authority.client()))
    other = await reachable(ends, authority.trusts(authority.client("phone")))
    clients("laptop: {ports: 1}\n")
    await ends.lines.wait_for(rf"\(laptop\): port {port} refused: port-not-allowed: port {port}")
    await ends.lines.wait_for(rf"port {port} refused by the server: port-not-allowed")
    await ends.lines.wait_for("unauthorized: the clients file does not let 'phone' in", count=2)
    await ends.lines.until(lambda: not len(server.ports), "both ports are free")
    for number in (port, other):
        with pytest.raises(Exception, match="refused"):
            await visit(ends.reactor, number)


@pytest_twisted.ensureDeferred
async def test_a_broken_file_changes_nothing(authority: Authority, ends: Ends, clients: Any) -> None:
    path = clients("laptop:")
    ends.start_server(authority.trusts(authority.server()), admission=settings(path))
    port = await reachable(ends, authority.trusts(authority.client()))
    clients("laptop: {portss: 1}")
    await ends.lines.wait_for(
        "the clients file cannot be used, and the rights stay as they were: .*unknown key 'portss'"
    )
    path.unlink()
    await ends.lines.wait_for("the rights stay as they were: .*cannot be read")
    assert await visit(ends.reactor, port) == b"hello"
    assert ends.lines.text.count("the rights stay as they were") == 2


@pytest.mark.parametrize("how", ["token", "tls", "clients", "loopback"])
@pytest_twisted.ensureDeferred
async def test_no_warning(how: str, authority: Authority, ends: Ends, clients: Any) -> None:
    more: Any = {"control_listen": ListenAddress.parse("127.0.0.1:0" if how == "loopback" else ":0")}
    if how in ("token", "clients"):
        more["admission"] = settings(clients("a:") if how == "clients" else None, TOKEN if how == "token" else "")
    ends.start_server(authority.trusts(authority.server()) if how == "tls" else None, **more)
    assert "ANYBODY" not in ends.lines.text


@pytest.mark.parametrize("entry", ["", '"*": {ports: 1024-65535}'])
@pytest_twisted.ensureDeferred
async def test_warning_of_an_open_server(entry: str, ends: Ends, clients: Any) -> None:
    more: Any = {"admission": settings(clients(entry))} if entry else {}
    ends.start_server(control_listen=ListenAddress.parse(":0"), **more)
    await ends.lines.wait_for(r"ANYBODY WHO REACHES 0.0.0.0:\d+ CAN OPEN PORTS ON THIS MACHINE")


@pytest_twisted.ensureDeferred
async def test_a_client_that_is_not_let_in_waits_longer_each_time(ends: Ends) -> None:
    ends.start_server(admission=settings(tokens=TOKEN))
    client = ends.start_client(token="wrong-horse", remote_port=free_port(), reconnect_min=0.02)
    await ends.lines.wait_for("unauthorized: the client's token is not valid; next attempt", count=4)
    assert client.link._backoff._attempts >= 4
