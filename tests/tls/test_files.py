"""The files of TLS: what is wrong with them at the start, and what happens when they change later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from rtunnel.errors import ConfigError
from rtunnel.tls import openssl
from rtunnel.tls.credentials import Credentials, load
from rtunnel.tls.policy import GROUPS, Role, TlsSettings, parse_groups, parse_pins
from tests.ports import free_port
from tests.tls.parts import Authority, EchoService, Ends, visit

Spoil = Callable[[Authority, TlsSettings], object]


def locked(authority: Authority, tls: TlsSettings) -> None:
    key = authority.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    tls.key.write_bytes(key)


def foreign_list(authority: Authority, tls: TlsSettings) -> None:
    other = Authority(authority.directory / "other", "other CA")
    other.revoke()
    tls.crl.write_bytes((other.directory / "ca.crl").read_bytes())


def forged_list(authority: Authority, tls: TlsSettings) -> None:
    other = Authority(authority.directory / "other")
    other.revoke()
    tls.crl.write_bytes((other.directory / "ca.crl").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (
            lambda _, tls: tls.cert.unlink(),
            "server.crt cannot be read: No such file or directory; make one with `rtunnel",
        ),
        (lambda _, tls: tls.key.unlink(), "server.key cannot be read: No such file"),
        (lambda _, tls: tls.ca.unlink(), "ca.crt cannot be read: No such file or directory; .*--tls-ca"),
        (lambda _, tls: tls.cert.write_text("hello"), "server.crt is not a certificate in PEM"),
        (lambda _, tls: tls.ca.write_bytes(b"\xff" * 100), "ca.crt is not a certificate in PEM"),
        (lambda _, tls: tls.key.write_text("hello"), "server.key is not a private key in PEM"),
        (lambda _, tls: tls.key.write_bytes(bytes(5_000_000)), "server.key is too large"),
        (lambda ca, tls: tls.key.write_bytes(ca.key.read_bytes()), "server.key is not the key of .*server.crt"),
        (locked, "server.key is locked by a passphrase"),
        (
            lambda ca, tls: tls.cert.write_bytes(ca.client().cert.read_bytes()),
            "server.crt is not for a server: its ext",
        ),
        (
            lambda ca, tls: ca.server(kind="ECDSA"),
            "server.crt has a key of ECDSA, which a quantum .*--tls-allow-classical",
        ),
        (
            lambda ca, tls: Authority(ca.directory, kind="RSA"),
            "ca.crt has a key of RSA, which a quantum computer can forge",
        ),
        (lambda _, tls: tls.crl.write_text("x"), "ca.crl is not a revocation list in PEM"),
        (foreign_list, "ca.crl is not signed by a CA of --tls-ca, so it revokes nothing"),
        (forged_list, "ca.crl is not signed by a CA of --tls-ca, so it revokes nothing"),
    ],
)
def test_unusable_files(spoil: Spoil, problem: str, authority: Authority) -> None:
    tls = authority.trusts(authority.server())
    load(tls, Role.SERVER)
    spoil(authority, tls)
    with pytest.raises(ConfigError, match=problem):
        load(tls, Role.SERVER)


def test_an_openssl_without_post_quantum_groups(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    monkeypatch.setattr(openssl, "_NEEDED_GROUPS", ("X25519MLKEM99999",))
    openssl.require_post_quantum.cache_clear()
    with pytest.raises(ConfigError, match=r"OpenSSL .* does not have the groups X25519MLKEM99999; install the wheels"):
        load(authority.trusts(authority.server()), Role.SERVER)


def test_a_binding_that_lacks_the_function(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    monkeypatch.setattr(openssl, "_lib", object())
    openssl.require_post_quantum.cache_clear()
    with pytest.raises(ConfigError, match="TLS needs SSL_CTX_set1_curves_list, which this cryptography"):
        load(authority.trusts(authority.server()), Role.SERVER)


def test_a_binding_that_cannot_resume(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    """It could not tell whether a connection is resumed, so that nobody would look at its certificate again."""
    monkeypatch.setattr(openssl, "_NEEDED_FOR_SESSIONS", ("SSL_session_reused", "SSL_missing"))
    openssl.require_post_quantum.cache_clear()
    with pytest.raises(ConfigError, match="TLS needs SSL_missing, which this cryptography does not give"):
        load(authority.trusts(authority.server()), Role.SERVER)


def test_groups() -> None:
    assert parse_groups("mlkem768, X25519MLKEM768:MLKEM768") == ("MLKEM768", "X25519MLKEM768")
    assert parse_groups(":".join(GROUPS)) == GROUPS
    for text in ("X25519", "P-256", "MLKEM768,x25519", "", "secp256r1", "MLKEM768,"):
        with pytest.raises(ConfigError, match="is not a post-quantum group"):
            parse_groups(text)
    with pytest.raises(ConfigError, match="did you mean 'MLKEM768'"):
        parse_groups("MLKEM678")


def test_pins() -> None:
    one, two = "ab" * 32, "cd" * 32
    assert parse_pins(one.upper()) == {one}
    assert parse_pins(f"{one}, sha256:{two}") == {one, two}
    assert parse_pins(":".join(["AB"] * 32)) == {one}
    assert parse_pins("SHA256=" + ":".join(["AB"] * 32)) == {one}
    for text in ("", "abc", one + "0", one[:-1] + "g", f"{one},"):
        with pytest.raises(ConfigError, match="is not the SHA-256 fingerprint"):
            parse_pins(text)


# Later


def test_nothing_new_is_not_read(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = Credentials(authority.trusts(authority.server()), Role.SERVER)
    before = credentials.now
    assert not credentials.refresh()
    assert credentials.now is before


def test_a_new_certificate(authority: Authority) -> None:
    credentials = Credentials(authority.trusts(authority.server()), Role.SERVER)
    new = authority.server()
    assert credentials.refresh()
    assert credentials.now.certificates[0] == new.certificate


def test_two_files_are_not_written_at_once(authority: Authority) -> None:
    """Between the two writes they do not fit, and that is no news."""
    old = authority.server()
    credentials = Credentials(authority.trusts(old), Role.SERVER)
    before = credentials.now
    new = authority.server(file="new")
    old.key.write_bytes(new.key.read_bytes())
    assert not credentials.refresh()
    assert credentials.now is before
    old.cert.write_bytes(new.cert.read_bytes())
    assert credentials.refresh()
    assert credentials.now.certificates[0] == new.certificate


def test_what_stays_broken_is_told_once(authority: Authority) -> None:
    server = authority.server()
    credentials = Credentials(authority.trusts(server), Role.SERVER)
    before = credentials.now
    server.cert.write_text("x")
    assert not credentials.refresh()
    with pytest.raises(ConfigError, match="is not a certificate in PEM"):
        credentials.refresh()
    assert [credentials.refresh() for _ in range(3)] == [False] * 3
    assert credentials.now is before
    server.write()
    assert credentials.refresh()
    assert credentials.now is not before


@pytest_twisted.ensureDeferred
async def test_a_certificate_is_replaced_under_traffic(authority: Authority, ends: Ends) -> None:
    server_holder, client_holder = authority.server(), authority.client()
    echo = EchoService(ends.reactor)
    ends.start(echo)
    ends.start_server(authority.trusts(server_holder))
    port, other = free_port(), free_port()
    ends.start_client(authority.trusts(client_holder), remote_port=port, local=echo.port)
    await ends.lines.wait_for(rf"127.0.0.1:{port} -> \S+: reachable")
    authority.server("fresh server", file="server")
    await ends.lines.wait_for("the TLS files have changed; new links use them")
    assert await visit(ends.reactor, port) == b"hello"
    ends.start_client(authority.trusts(client_holder), remote_port=other, local=echo.port)
    await ends.lines.wait_for("certificate of 'fresh server'")
    await ends.lines.wait_for(rf"127.0.0.1:{other} -> \S+: reachable")
    assert await visit(ends.reactor, port, b"still there") == b"still there"
    assert "link to server" not in ends.lines.text


@pytest_twisted.ensureDeferred
async def test_a_certificate_is_revoked_under_traffic(authority: Authority, ends: Ends) -> None:
    holder, other = authority.client(), authority.client("phone")
    echo = EchoService(ends.reactor)
    ends.start(echo)
    server = ends.start_server(authority.trusts(authority.server()))
    ports = free_port(), free_port()
    ends.start_client(authority.trusts(holder), remote_port=ports[0], local=echo.port, reconnect_min=0.1)
    ends.start_client(authority.trusts(other), remote_port=ports[1], local=echo.port)
    for port in ports:
        await ends.lines.wait_for(rf"127.0.0.1:{port} -> \S+: reachable")
        assert await visit(ends.reactor, port) == b"hello"
    authority.revoke(holder)
    await ends.lines.wait_for(r"link 127.0.0.1:\d+ \(laptop\): closed by us: unauthorized: its certificate is revoked")
    await ends.lines.wait_for("link to server .* lost: unauthorized: its certificate is revoked; next attempt")
    await ends.lines.until(lambda: len(server.ports) == 1, "its port is free")
    assert await visit(ends.reactor, ports[1]) == b"hello"
    await ends.lines.wait_for("connection from .* closed: the client's certificate is refused: .*'laptop' is revoked")


@pytest_twisted.ensureDeferred
async def test_a_client_takes_its_new_certificate(authority: Authority, ends: Ends) -> None:
    ends.start_server(authority.trusts(authority.server()))
    holder = authority.client()
    client: Any = ends.start_client(authority.trusts(holder), reconnect_min=0.1, reconnect_max=0.2)
    await ends.lines.wait_for(r"\(laptop\) connected")
    authority.issue("new laptop", None, file="laptop")
    client.link.session.drop()
    await ends.lines.wait_for(r"\(new laptop\) connected")
    await ends.lines.wait_for("the TLS files have changed, and are in use now")
    holder.cert.write_text("x")
    for _ in range(3):
        count = ends.lines.text.count("(new laptop) connected")
        client.link.session.drop()
        await ends.lines.wait_for(r"\(new laptop\) connected", count=count + 1)
    await ends.lines.wait_for("the TLS files cannot be used, and those from before stay in use: .*laptop.crt is not a")
    assert ends.lines.text.count("cannot be used") == 1


def test_a_list_past_its_day_still_counts(authority: Authority) -> None:
    """A server must not turn everybody away because nobody signed the same list again."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509

    from tests.tls.test_engine import exchange

    revoked, fine = authority.client("revoked"), authority.client("fine")
    now = datetime.now(UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(revoked.certificate.serial_number).revocation_date(now)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(now - timedelta(days=9)).next_update(now - timedelta(days=8))
    old = builder.add_revoked_certificate(entry.build()).sign(authority.private_key, None)
    (authority.directory / "ca.crl").write_bytes(old.public_bytes(Encoding.PEM))
    from rtunnel.tls.engine import TlsEngine

    server = Credentials(authority.trusts(authority.server()), Role.SERVER)
    for holder, failure in ((fine, ""), (revoked, "the certificate of 'revoked' is revoked")):
        tls = replace(authority.trusts(holder), ca=authority.cert)
        first, second = TlsEngine(server), TlsEngine(Credentials(tls, Role.CLIENT))
        second.start()
        exchange(first, second)
        assert failure in first.failure
        assert bool(first.peer) == (not failure)
