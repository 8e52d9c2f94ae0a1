"""The signaling link over TLS: which servers it takes for what they say they are, and what it says of the others."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL

from rtunnel.errors import ConfigError
from rtunnel.tls.web_client import client_context
from tests.no_collector import no_collector
from tests.ports import free_port
from tests.reverse.net import turns
from tests.rtc.signaling.link_parts import TOKEN, OwnServer, RawServer, World
from tests.tls.parts import KEYS, Authority, Holder


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def own(world: World, tls: Holder, **more: Any) -> OwnServer:
    server: OwnServer = world.start(OwnServer(world.reactor, tls, **more))
    return server


@pytest.mark.parametrize("kind", KEYS)
@pytest_twisted.ensureDeferred
async def test_a_server_of_a_private_ca(world: World, tmp_path: Path, kind: str) -> None:
    authority = Authority(tmp_path / "pki", kind=kind)
    server = own(world, authority.server(kind=kind), token=TOKEN)
    link, _ = await world.up(server.port, secure=True, ca_file=authority.cert, token=TOKEN)
    assert link.up
    [transport] = server.transports
    assert transport.getHandle().get_group_name() == "X25519MLKEM768"
    await world.lines.wait_for(r"connected to signaling server wss://127\.0\.0\.1:\d+/signal\n")


@pytest_twisted.ensureDeferred
async def test_a_server_with_a_name(world: World, authority: Authority) -> None:
    server = own(world, authority.server(hosts=["localhost"]))
    await world.up(server.port, secure=True, host="localhost", ca_file=authority.cert)
    assert server.tls.asked_for == [b"localhost"]


@pytest_twisted.ensureDeferred
async def test_an_address_is_not_asked_for_by_sni(world: World, authority: Authority) -> None:
    server = own(world, authority.server())
    await world.up(server.port, secure=True, ca_file=authority.cert)
    assert server.tls.asked_for in ([], [None])


@pytest_twisted.ensureDeferred
async def test_the_cas_of_the_system(world: World, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
    server = own(world, authority.server())
    link, _ = await world.up(server.port, secure=True)
    assert link.up


@pytest_twisted.ensureDeferred
async def test_tls_1_2_will_do(world: World, authority: Authority) -> None:
    server = own(world, authority.server(kind="ECDSA"))
    server.tls.context.set_max_proto_version(SSL.TLS1_2_VERSION)
    link, _ = await world.up(server.port, secure=True, ca_file=authority.cert)
    assert link.up
    [transport] = server.transports
    assert transport.getHandle().get_protocol_version_name() == "TLSv1.2"


@pytest_twisted.ensureDeferred
async def test_a_new_ca_file_is_read_without_a_restart(world: World, authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other CA")
    server = own(world, authority.server())
    ca_file = tmp_path / "trusted.crt"
    ca_file.write_bytes(other.cert.read_bytes())
    link, user = world.link(server.port, secure=True, ca_file=ca_file)
    world.start(link)
    assert "is not from a CA of --ca-file" in await world.refusal()
    ca_file.write_bytes(authority.cert.read_bytes())
    await world.until(lambda: user.ups, "up")


# Refused

Issue = Callable[[Authority], Holder]


@pytest.mark.parametrize(
    ("issue", "why"),
    [
        (
            lambda ca: ca.server(hosts=["other.example", "192.0.2.1"]),
            r"the certificate of 'server' is for other\.example, 192\.0\.2\.1, not for 127\.0\.0\.1; .* in the URL",
        ),
        (lambda ca: ca.server(hosts=[]), "the certificate of 'server' is for no host, not for .*"),
        (
            lambda ca: ca.server(end=-timedelta(hours=1)),
            r"the certificate of 'server' expired on \d{4}-.*",
        ),
        (lambda ca: ca.server(begin=timedelta(hours=1)), "the certificate of 'server' is not valid before .*"),
        (lambda ca: ca.client(hosts=["127.0.0.1"]), "the certificate of 'laptop' is not for this use: .*"),
        (
            lambda ca: Authority(ca.directory.parent / "other", "other CA").server(),
            "the certificate of 'server' is not from a CA of --ca-file; its issuer, CN=other CA, is missing there",
        ),
        (
            lambda ca: Authority(ca.directory.parent / "twin").server(),
            "the certificate of 'server' is not from a CA of --ca-file; the one called CN=test CA has another key",
        ),
        (lambda ca: ca, ".*"),
    ],
    ids=["name", "no name", "expired", "not yet", "purpose", "other CA", "CA of the same name", "the CA itself"],
)
@pytest_twisted.ensureDeferred
async def test_refused(world: World, authority: Authority, issue: Issue, why: str) -> None:
    server = own(world, issue(authority))
    link, user = world.link(server.port, secure=True, ca_file=authority.cert, token=TOKEN)
    world.start(link)
    refusal = await world.refusal()
    assert re.fullmatch(rf"cannot use signaling server wss://\S+/signal: its certificate is refused: ({why})", refusal)
    assert not user.ups
    # What nobody proved to be the server was sent nothing, least of all the token.
    assert not server.requests


@pytest_twisted.ensureDeferred
async def test_not_trusted_by_the_system(world: World, authority: Authority) -> None:
    server = own(world, authority.server())
    link, _ = world.link(server.port, secure=True)
    world.start(link)
    assert (await world.refusal()).endswith(
        "the certificate of 'server' is not from a CA that this system trusts (--ca-file names a file with another); "
        "its issuer, CN=test CA, is missing there"
    )


@pytest_twisted.ensureDeferred
async def test_a_server_without_tls(world: World, authority: Authority) -> None:
    server = world.start(RawServer(world.reactor, b"HTTP/1.1 400 Bad Request\r\n\r\n", to_anything=True))
    link, _ = world.link(server.port, secure=True, ca_file=authority.cert)
    world.start(link)
    assert (await world.refusal()).endswith(": it speaks no TLS; did you mean ws://?")


@pytest_twisted.ensureDeferred
async def test_a_server_with_tls_where_none_is_expected(world: World, authority: Authority) -> None:
    server = own(world, authority.server())
    link, _ = world.link(server.port)
    world.start(link)
    assert (await world.refusal()).endswith("; did you mean wss://?")


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_up_in_the_tls_handshake(world: World, authority: Authority) -> None:
    server = world.start(RawServer(world.reactor, b"", to_anything=True))
    link, _ = world.link(server.port, secure=True, ca_file=authority.cert)
    world.start(link)
    assert "handshake" in await world.refusal()


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_silent_in_the_tls_handshake(world: World, authority: Authority) -> None:
    server = world.start(RawServer(world.reactor))
    link, _ = world.link(server.port, secure=True, ca_file=authority.cert, connect_timeout=0.1)
    world.start(link)
    assert (await world.refusal()).endswith(": it was not ready within 0.1 s")


@pytest_twisted.ensureDeferred
async def test_a_dead_server_is_found_and_the_link_stopped_over_tls(world: World, authority: Authority) -> None:
    server = own(world, authority.server())
    link, user = await world.up(server.port, secure=True, ca_file=authority.cert)
    # TCP ends, without a word of TLS.
    [transport] = server.transports
    transport.transport.loseConnection()
    await world.until(lambda: user.ups == 2, "up again")
    assert user.downs == ["the connection was reset or timed out"]
    await world.stop(link)
    await world.until(lambda: len(server.gone) == 2, "gone")
    assert (server.gone[1].was_clean, server.gone[1].close_code) == (True, 1000)


# The file


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, r"cannot read \S+: No such file or directory \(see --ca-file\)"),
        (b"", r"\S+ has no certificate of a CA in PEM \(see --ca-file\)"),
        (b"hello", r"\S+ has no certificate of a CA in PEM \(see --ca-file\)"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_ca_file_that_is_none(world: World, tmp_path: Path, content: bytes | None, why: str) -> None:
    ca_file = tmp_path / "ca.crt"
    if content is not None:
        ca_file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        client_context(ca_file)
    assert re.fullmatch(why, str(caught.value))
    # It may go while the service runs.
    link, _ = world.link(1, secure=True, ca_file=ca_file)
    world.start(link)
    assert str(caught.value) in await world.refusal()


def test_a_directory_is_no_ca_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        client_context(tmp_path)


def contexts() -> int:
    """How many of OpenSSL's there are in this process. A connection keeps its own."""
    return sum(isinstance(one, SSL.Context) for one in gc.get_objects())


@pytest.mark.parametrize("how", ["nobody listens", "the server is refused", "the connection is cut"])
@pytest_twisted.ensureDeferred
async def test_openssl_leaves_no_memory_to_the_garbage_collector(
    how: str, world: World, authority: Authority, tmp_path: Path
) -> None:
    """With the CAs of a system that is nearly a megabyte for each attempt, and the collector does not see it."""
    server = own(world, authority.server())
    port = free_port() if how == "nobody listens" else server.port
    ca = Authority(tmp_path / "other").cert if how == "the server is refused" else authority.cert
    with no_collector():
        link, user = world.link(port, secure=True, ca_file=ca)
        before = contexts()
        world.start(link)
        if how == "the connection is cut":
            for ups in range(1, 4):
                await world.until(lambda ups=ups: user.ups == ups, "the link is up")  # type: ignore[misc]
                server.cut_off()
        else:
            await world.until(lambda: len(world.attempts()) >= 3, "some attempts")
        await world.stop(link)
        await turns()
        assert contexts() == before
