"""The files of TLS: what is wrong with them at the start, and what happens when they change later."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from rtunnel.errors import ConfigError
from rtunnel.tls import openssl
from rtunnel.tls.credentials import Credentials, load
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.policy import Role, TlsSettings
from tests.tls.parts import Authority
from tests.tls.test_engine import exchange

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
        (lambda _, tls: tls.key.write_bytes(bytes(5_000_000)), "server.key cannot be read: it is larger than 4 MB"),
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


def test_a_binding_that_cannot_see_sessions(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    """It could not tell whether a connection resumes one, so that nobody would look at its certificate again."""
    monkeypatch.setattr(openssl, "_NEEDED_AGAINST_SESSIONS", ("SSL_session_reused", "SSL_missing"))
    openssl.require_post_quantum.cache_clear()
    with pytest.raises(ConfigError, match="TLS needs SSL_missing, which this cryptography does not have"):
        load(authority.trusts(authority.server()), Role.SERVER)


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
    """Between the two writes they do not fit together, which is not reported."""
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


def test_a_list_past_its_day_still_counts(authority: Authority) -> None:
    """A server must not refuse everybody because the list was not signed again."""
    revoked, fine = authority.client("revoked"), authority.client("fine")
    now = datetime.now(UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(revoked.certificate.serial_number).revocation_date(now)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(now - timedelta(days=9)).next_update(now - timedelta(days=8))
    old = builder.add_revoked_certificate(entry.build()).sign(authority.private_key, None)
    (authority.directory / "ca.crl").write_bytes(old.public_bytes(Encoding.PEM))
    server = Credentials(authority.trusts(authority.server()), Role.SERVER)
    for holder, failure in ((fine, ""), (revoked, "the certificate of 'revoked' is revoked")):
        tls = replace(authority.trusts(holder), ca=authority.cert)
        first, second = TlsEngine(server), TlsEngine(Credentials(tls, Role.CLIENT))
        second.start()
        exchange(first, second)
        assert failure in first.failure
        assert bool(first.peer) == (not failure)


def test_file_of_another_user(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody should make a new one."""
    tls = authority.trusts(authority.server())

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied; let the user that runs this read it"):
        load(tls, Role.SERVER)
