"""What each command does to the directory, and what it refuses to do."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from rtunnel.errors import PkiError
from rtunnel.pki import inventory, operations, unpack
from rtunnel.pki.authority import issue, make_ca, make_crl
from rtunnel.pki.certificates import (
    Algorithm,
    Kind,
    algorithm_of,
    crl_number,
    hosts_of,
    key_digest,
    kind_of,
    may_be,
    revocations,
    signed_by,
)
from rtunnel.pki.store import Pair, Store
from tests.pki.parts import HOSTS, NOW, arrived, crl, serial, tree, warnings


def test_init(store: Store) -> None:
    assert set(tree(store.directory)) == {"ca.crt", "ca.key", "ca.crl", "server.crt", "server.key"}
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.directory.glob("[!.]*")}
    assert modes == {"ca.crt": 0o644, "ca.key": 0o600, "ca.crl": 0o644, "server.crt": 0o644, "server.key": 0o600}
    ca, server = store.load_ca(), store.server.load()
    assert algorithm_of(ca.certificate) is algorithm_of(server.certificate) is Algorithm.ML_DSA_65
    assert signed_by(server.certificate, ca.certificate)
    assert hosts_of(server.certificate) == HOSTS
    assert (crl_number(crl(store)), len(crl(store))) == (1, 0)
    assert warnings(store) == []


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "server.crt", "server.key"])
def test_init_touches_nothing_that_is_there(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(PkiError, match=f"{name} already exists, and is not overwritten"):
        operations.init(Store(tmp_path), HOSTS)
    assert tree(tmp_path) == {name: b"precious"}


def test_init_for_the_group_of_a_service(tmp_path: Path) -> None:
    store = Store(tmp_path / "pki")
    operations.init(store, HOSTS, group=os.getgid())
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o750
    assert stat.S_IMODE(store.server.key.stat().st_mode) == 0o640
    assert stat.S_IMODE(store.ca.key.stat().st_mode) == 0o600
    operations.renew(store, "server")
    assert stat.S_IMODE(store.server.key.stat().st_mode) == 0o640
    assert warnings(store) == []


def test_client(store: Store) -> None:
    operations.add_client(store, "laptop")
    pair = store.pair("laptop")
    assert pair.certificate == store.directory / "clients" / "laptop.crt"
    assert stat.S_IMODE(store.clients.stat().st_mode) == 0o700
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
    assert signed_by(pair.load().certificate, store.load_ca().certificate)
    before = tree(store.directory)
    with pytest.raises(PkiError, match="client 'laptop' already exists; 'rtunnel pki renew laptop'"):
        operations.add_client(store, "laptop")
    pair.certificate.unlink()
    with pytest.raises(PkiError, match=r"laptop\.key exists without its certificate"):
        operations.add_client(store, "laptop")
    pair.certificate.write_bytes(before["clients/laptop.crt"])
    assert tree(store.directory) == before


def test_host(store: Store) -> None:
    """Its certificate is for a host, stays one when it is renewed, and shares no name with a client's."""
    operations.add_client(store, "laptop")
    with pytest.raises(PkiError, match="client 'laptop' already exists"):
        operations.add_host(store, "laptop")
    operations.add_host(store, "myhost")
    with pytest.raises(PkiError, match="host 'myhost' already exists"):
        operations.add_client(store, "myhost")
    pair = store.pair("myhost")
    assert pair.certificate == store.directory / "hosts" / "myhost.crt"
    former = store.load_certificate("myhost")
    assert (kind_of(former), may_be(former, Kind.CLIENT)) == (Kind.HOST, False)
    operations.renew(store, "myhost")
    assert kind_of(store.load_certificate("myhost")) is Kind.HOST
    assert operations.due(store, datetime.now(UTC) + timedelta(days=820)) == ["server", "laptop", "myhost"]
    found = {(entry.name, entry.role, entry.replaced) for entry in inventory.take(store).entries}
    assert found >= {("myhost", Kind.HOST, False), ("myhost", Kind.HOST, True), ("laptop", Kind.CLIENT, False)}
    # The server's revocation is its own.
    assert operations.revoke(store, "server") == [serial(store, "server")]
    assert operations.revoke(store, "myhost") == [serial(store, "myhost"), former.serial_number]


@pytest.mark.parametrize("name", ["../x", "ca", "server", ""])
def test_client_names_are_checked(name: str, store: Store) -> None:
    before = tree(store.directory.parent)
    with pytest.raises(PkiError):
        operations.add_client(store, name)
    assert tree(store.directory.parent) == before


def test_clients_sign_as_their_ca_does(tmp_path: Path) -> None:
    store = Store(tmp_path)
    operations.init(store, HOSTS, algorithm=Algorithm.ED25519)
    assert algorithm_of(operations.add_client(store, "a").certificate) is Algorithm.ED25519
    assert (
        algorithm_of(operations.add_client(store, "b", algorithm=Algorithm.ML_DSA_87).certificate)
        is Algorithm.ML_DSA_87
    )
    assert algorithm_of(operations.renew(store, "b").certificate) is Algorithm.ML_DSA_87


@pytest.mark.parametrize("what", ["add_client", "renew", "renew_ca", "revoke"])
def test_without_a_ca(what: str, store: Store, tmp_path: Path) -> None:
    arguments = [] if what == "renew_ca" else ["laptop"]
    with pytest.raises(PkiError, match=r"there is no CA in .*/nothing; make one with 'rtunnel pki init'"):
        getattr(operations, what)(Store(tmp_path / "nothing"), *arguments)
    assert not (tmp_path / "nothing").exists()
    store.ca.key.unlink()
    with pytest.raises(PkiError, match=r"has no ca\.key; run this on the machine where the CA is"):
        getattr(operations, what)(store, *arguments)


def test_a_ca_of_another_make(tmp_path: Path) -> None:
    """A CA that somebody has had for years: no revocation list, no server."""
    ca = make_ca("Our CA", algorithm=Algorithm.ECDSA_P256)
    store = Store(tmp_path)
    store.ca.certificate.write_bytes(ca.certificate_pem)
    store.ca.key.write_bytes(ca.key_pem)
    operations.add_client(store, "laptop")
    with pytest.raises(PkiError, match="has no certificate of the server"):
        operations.renew(store, "server")
    operations.renew(store, "server", hosts=HOSTS)
    assert hosts_of(store.server.load().certificate) == HOSTS
    assert arrived(store, "laptop").crl is None
    assert operations.revoke(store, "laptop") == [serial(store, "laptop")]
    assert crl_number(crl(store)) == 1


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("ca.key", b"", "ca.key is damaged: it is not a private key in PEM form"),
        ("ca.crt", b"junk", "ca.crt is damaged: it is not a certificate in PEM form"),
        ("ca.crl", b"junk", "ca.crl is damaged: it is not a revocation list in PEM form"),
        ("ca.key", make_ca().key_pem, "ca.key is not the key of"),
        ("ca.crl", make_crl(make_ca()).public_bytes(Encoding.PEM), "ca.crl is not from the CA"),
    ],
)
def test_a_damaged_ca(file: str, content: bytes, complaint: str, store: Store) -> None:
    operations.add_client(store, "laptop")
    (store.directory / file).write_bytes(content)
    before = tree(store.directory)
    with pytest.raises(PkiError, match=complaint):
        operations.revoke(store, "laptop")
    assert tree(store.directory) == before
    assert any(complaint in warning or "is not its key" in warning for warning in warnings(store))


def test_a_ca_with_a_passphrase(store: Store) -> None:
    key = store.load_ca().key
    store.ca.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    with pytest.raises(PkiError, match="has a passphrase; remove that"):
        operations.add_client(store, "laptop")


def test_a_certificate_that_is_no_ca(store: Store) -> None:
    store.ca.certificate.write_bytes(store.server.certificate.read_bytes())
    store.ca.key.write_bytes(store.server.key.read_bytes())
    with pytest.raises(PkiError, match="is not the certificate of a CA"):
        operations.add_client(store, "laptop")


def test_a_ca_that_has_ended(tmp_path: Path) -> None:
    store = Store(tmp_path)
    operations.init(store, HOSTS, ca_days=10, now=NOW - timedelta(days=20))
    for step in (lambda: operations.add_client(store, "laptop"), lambda: operations.renew(store, "server")):
        with pytest.raises(PkiError, match=r"the CA expired on .*; first run: rtunnel pki renew ca"):
            step()
    operations.renew_ca(store)
    operations.add_client(store, "laptop")


def test_renew_a_client(store: Store) -> None:
    operations.add_client(store, "laptop")
    old = tree(store.clients)
    made = operations.renew(store, "laptop", now=NOW)
    assert store.pair("laptop").load().certificate == made.certificate
    new = tree(store.clients)
    assert new["laptop.crt"] != old["laptop.crt"]
    assert new["laptop.key"] != old["laptop.key"]
    stem = f"laptop-{NOW:%Y%m%dT%H%M%SZ}"
    assert tree(store.old) == {f"{stem}.crt": old["laptop.crt"], f"{stem}.key": old["laptop.key"]}
    assert stat.S_IMODE(store.old.stat().st_mode) == 0o700
    assert stat.S_IMODE((store.old / f"{stem}.key").stat().st_mode) == 0o600
    assert revocations(crl(store)) == {}
    operations.renew(store, "laptop", now=NOW)
    assert set(tree(store.old)) == {f"{stem}.crt", f"{stem}.key", f"{stem}-2.crt", f"{stem}-2.key"}
    assert tree(store.old)[f"{stem}-2.key"] == new["laptop.key"]


def test_renew_the_server(store: Store) -> None:
    operations.renew(store, "server")
    assert hosts_of(store.server.load().certificate) == HOSTS
    operations.renew(store, "server", hosts=["new.example.org"], algorithm=Algorithm.ML_DSA_44, days=10)
    certificate = store.server.load().certificate
    assert hosts_of(certificate) == ["new.example.org"]
    assert algorithm_of(certificate) is Algorithm.ML_DSA_44
    assert certificate.not_valid_after_utc < NOW + timedelta(days=11)


def test_renew_and_revoke_what_was_before(store: Store) -> None:
    operations.add_client(store, "laptop")
    old = serial(store, "laptop")
    operations.renew(store, "laptop", revoke_old=True)
    assert list(revocations(crl(store))) == [old]
    assert serial(store, "laptop") != old


def test_renew_says_when_the_ca_ends_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not operations.init(store, HOSTS, ca_days=100, days=50).capped
    assert operations.renew(store, "server", days=200).capped


def test_renew_the_ca(store: Store, elsewhere: Store) -> None:
    operations.add_client(store, "laptop")
    unpack.unpack(elsewhere, arrived(store, "laptop"))
    before = store.load_ca()
    operations.renew_ca(store, days=9000, now=NOW)
    after = store.load_ca()
    assert key_digest(after.key.public_key()) == key_digest(before.key.public_key())
    assert after.certificate.not_valid_after_utc == NOW + timedelta(days=9000) == crl(store).next_update_utc
    assert warnings(store) == []
    done = unpack.unpack(elsewhere, arrived(store, "laptop"))
    assert [path.name for path in done.written] == ["ca.crt", "ca.crl"]
    assert elsewhere.load_certificate("ca") == after.certificate
    assert warnings(elsewhere) == []


def test_what_is_due(tmp_path: Path) -> None:
    store = Store(tmp_path)
    operations.init(store, HOSTS, days=29)
    for name, days in (("b", 29), ("a", 31), ("gone", 10)):
        operations.add_client(store, name, days=days)
    operations.revoke(store, "gone")
    assert operations.due(store) == ["server", "b"]
    assert operations.due(store, NOW + timedelta(days=3640)) == ["ca", "server", "a", "b"]
    store.server.certificate.unlink()
    assert operations.due(store) == ["b"]


def test_revoke(store: Store) -> None:
    for name in ("laptop", "phone"):
        operations.add_client(store, name)
    first = serial(store, "laptop")
    operations.renew(store, "laptop")
    second = serial(store, "laptop")
    assert operations.revoke(store, "laptop", only_replaced=True) == [first]
    assert operations.revoke(store, "laptop", now=NOW) == [second]
    assert operations.revoke(store, "laptop") == []
    assert set(revocations(crl(store))) == {first, second}
    assert crl_number(crl(store)) == 3
    with pytest.raises(PkiError, match="is revoked; first run: rtunnel pki renew laptop"):
        operations.make_bundle(store, "laptop")
    states = {(entry.name, entry.replaced): entry.revoked for entry in inventory.take(store, everything=True).entries}
    assert states[("laptop", False)] == NOW
    assert states[("laptop", True)] is not None
    assert states[("phone", False)] is None
    operations.renew(store, "laptop")
    assert serial(store, "laptop") not in revocations(crl(store))
    assert arrived(store, "laptop").name == "laptop"


def test_revoke_all_of_a_name_at_once(store: Store) -> None:
    operations.add_client(store, "laptop")
    for _ in range(3):
        operations.renew(store, "laptop")
    operations.renew(store, "server", hosts=["laptop"])
    assert len(operations.revoke(store, "laptop")) == 4
    assert serial(store, "server") not in revocations(crl(store))
    assert len(operations.revoke(store, "server")) == 2


def test_revoke_nobody(store: Store) -> None:
    operations.add_client(store, "laptop")
    with pytest.raises(PkiError, match="has no client or host 'lapptop'; did you mean 'laptop'"):
        operations.revoke(store, "lapptop")
    with pytest.raises(PkiError, match="the CA cannot revoke itself"):
        operations.revoke(store, "ca")
    assert crl_number(crl(store)) == 1


def test_warnings(store: Store) -> None:
    operations.add_client(store, "laptop", days=40)
    assert warnings(store) == []
    assert warnings(store, NOW + timedelta(days=20)) == ["it expires in 20 days; run: rtunnel pki renew laptop"]
    assert warnings(store, NOW + timedelta(days=50)) == ["it has expired; run: rtunnel pki renew laptop"]
    assert "it is not valid before" in warnings(store, NOW - timedelta(days=1))[0]
    store.server.key.chmod(0o644)
    assert warnings(store) == [
        f"its key is open to every user of this machine; run: chmod 600 {store.server.key}",
    ]
    store.server.key.unlink()
    assert warnings(store) == [f"its key {store.server.key} is missing; run: rtunnel pki renew server"]
    store.pair("laptop").certificate.write_bytes(b"junk")
    assert any("laptop.crt is damaged" in warning for warning in warnings(store))
    stranger = issue(make_ca(), Kind.CLIENT, "phone")
    Pair(store.clients / "phone.crt", store.clients / "phone.key").certificate.write_bytes(stranger.certificate_pem)
    assert f"it is not from the CA {store.ca.certificate}" in warnings(store)
    store.server.key.write_text("")
    store.server.certificate.unlink()
    assert f"{store.server.key} exists without its certificate" in warnings(store)
    assert any("the revocation list" in warning for warning in warnings(store, NOW + timedelta(days=4000)))


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="there is nothing in"):
        inventory.take(Store(tmp_path))


def test_showing_changes_nothing(store: Store) -> None:
    before = tree(store.directory)
    inventory.take(store, everything=True)
    assert tree(store.directory) == before
