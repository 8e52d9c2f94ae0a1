"""Bundles: what is in them, and how they are unpacked on another machine."""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from rtunnel.errors import PkiError
from rtunnel.pki import bundle, files, operations, unpack
from rtunnel.pki.authority import issue, make_ca, make_crl
from rtunnel.pki.certificates import Kind, crl_number
from rtunnel.pki.store import Store
from tests.pki.parts import HOSTS, NOW, arrived, crl, tree, warnings


def test_bundle(store: Store, elsewhere: Store) -> None:
    operations.add_client(store, "laptop")
    carried = arrived(store, "laptop")
    assert (carried.kind, carried.name, carried.servers) == (Kind.CLIENT, "laptop", tuple(HOSTS))
    done = unpack.unpack(elsewhere, carried)
    assert [path.name for path in done.written] == ["client.crt", "client.key", "ca.crt", "ca.crl"]
    assert done.put_aside == []
    assert stat.S_IMODE(elsewhere.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(elsewhere.own_client.key.stat().st_mode) == 0o600
    assert elsewhere.own_client.load().certificate == store.load_certificate("laptop")
    assert elsewhere.ca.certificate.read_bytes() == store.ca.certificate.read_bytes()
    assert warnings(elsewhere) == []
    assert unpack.unpack(elsewhere, carried) == unpack.Unpacked([], [])


def test_bundle_of_a_server(store: Store, elsewhere: Store) -> None:
    done = unpack.unpack(elsewhere, arrived(store, "server"), group=os.getgid())
    assert [path.name for path in done.written] == ["server.crt", "server.key", "ca.crt", "ca.crl"]
    assert stat.S_IMODE(elsewhere.server.key.stat().st_mode) == 0o640
    assert stat.S_IMODE(elsewhere.directory.stat().st_mode) == 0o750


def test_bundle_of_a_host(store: Store, elsewhere: Store) -> None:
    """It stands beside what a server and a client on the same machine have."""
    operations.add_client(store, "laptop")
    operations.add_host(store, "myhost")
    for name in ("server", "laptop"):
        unpack.unpack(elsewhere, arrived(store, name))
    carried = arrived(store, "myhost")
    assert (carried.kind, carried.name) == (Kind.HOST, "myhost")
    assert b"# On the host's machine: rtunnel pki import FILE\n" in bundle.write(carried)
    assert [path.name for path in unpack.unpack(elsewhere, carried).written] == ["host.crt", "host.key"]
    assert warnings(elsewhere) == []


@pytest.mark.parametrize("name", ["ca", "nobody", "../x"])
def test_no_bundle(name: str, store: Store) -> None:
    with pytest.raises(PkiError):
        operations.make_bundle(store, name)


def test_no_bundle_of_what_nobody_would_take(store: Store) -> None:
    operations.add_client(store, "laptop", days=1)
    with pytest.raises(PkiError, match="has expired; first run: rtunnel pki renew laptop"):
        operations.make_bundle(store, "laptop", now=NOW + timedelta(days=2))
    stranger = issue(make_ca(), Kind.CLIENT, "laptop")
    store.pair("laptop").certificate.write_bytes(stranger.certificate_pem)
    with pytest.raises(PkiError, match="is not the key of"):
        operations.make_bundle(store, "laptop")
    store.pair("laptop").key.write_bytes(stranger.key_pem)
    with pytest.raises(PkiError, match="is not from the CA"):
        operations.make_bundle(store, "laptop")


def test_a_renewed_bundle_takes_the_place_of_the_former(store: Store, elsewhere: Store) -> None:
    operations.add_client(store, "laptop", now=NOW - timedelta(days=1))
    former = arrived(store, "laptop")
    unpack.unpack(elsewhere, former)
    elsewhere.own_client.key.chmod(0o640)
    operations.renew(store, "laptop", revoke_old=True)
    done = unpack.unpack(elsewhere, arrived(store, "laptop"))
    assert [path.name for path in done.written] == ["client.crt", "client.key", "ca.crl"]
    assert [path.parent for path in done.put_aside] == [elsewhere.old] * 3
    assert elsewhere.own_client.load().certificate == store.load_certificate("laptop")
    assert stat.S_IMODE(elsewhere.own_client.key.stat().st_mode) == 0o640
    with pytest.raises(PkiError, match="newer than that of the bundle"):
        unpack.unpack(elsewhere, former)
    # The list that is newer stays, whatever else is asked for.
    unpack.unpack(elsewhere, former, replace=True)
    assert crl_number(crl(elsewhere)) == 2


def test_another_name_or_another_ca_has_to_be_asked_for(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    for name in ("laptop", "phone"):
        operations.add_client(store, name)
    other = Store(tmp_path / "other")
    operations.init(other, HOSTS)
    operations.add_client(other, "laptop")
    unpack.unpack(elsewhere, arrived(store, "laptop"))
    before = tree(elsewhere.directory)
    with pytest.raises(PkiError, match="belongs to 'laptop'; name another --dir"):
        unpack.unpack(elsewhere, arrived(store, "phone"))
    with pytest.raises(PkiError, match="is not the CA of the bundle"):
        unpack.unpack(elsewhere, arrived(other, "laptop"))
    assert tree(elsewhere.directory) == before
    unpack.unpack(elsewhere, arrived(store, "phone"), replace=True)
    assert elsewhere.own_client.load().certificate == store.load_certificate("phone")
    unpack.unpack(elsewhere, arrived(other, "laptop"), replace=True)
    assert elsewhere.own_client.load().certificate == other.load_certificate("laptop")
    assert warnings(elsewhere) == []
    kept = set(tree(elsewhere.old).values())
    assert set(before.values()) <= kept | set(tree(elsewhere.directory).values())


def test_a_bundle_without_a_list_takes_the_place_of_another_ca(store: Store, elsewhere: Store, tmp_path: Path) -> None:
    operations.add_client(store, "laptop")
    other = Store(tmp_path / "other")
    operations.init(other, HOSTS)
    operations.add_client(other, "laptop")
    other.crl.unlink()
    unpack.unpack(elsewhere, arrived(store, "laptop"))
    unpack.unpack(elsewhere, arrived(other, "laptop"), replace=True)
    assert not elsewhere.crl.exists()
    assert warnings(elsewhere) == []


def test_a_bundle_beside_its_own_ca(store: Store) -> None:
    """As for a first try, both ends are on one machine."""
    operations.add_client(store, "laptop")
    before = tree(store.directory)
    unpack.unpack(store, arrived(store, "laptop"))
    assert set(tree(store.directory)) - set(before) == {"client.crt", "client.key"}
    assert warnings(store) == []


def test_a_bundle_never_touches_a_ca(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    operations.init(other, HOSTS)
    operations.add_client(other, "laptop")
    with pytest.raises(PkiError, match="belongs to another CA; import into another --dir"):
        unpack.unpack(store, arrived(other, "laptop"), replace=True)


def test_a_key_without_certificate_in_the_place(store: Store, elsewhere: Store) -> None:
    operations.add_client(store, "laptop")
    files.make_directory(elsewhere.directory)
    elsewhere.own_client.key.write_bytes(b"precious")
    with pytest.raises(PkiError, match="exists without its certificate"):
        unpack.unpack(elsewhere, arrived(store, "laptop"))
    unpack.unpack(elsewhere, arrived(store, "laptop"), replace=True)
    assert list(tree(elsewhere.old).values()) == [b"precious"]


CA = make_ca()
LAPTOP = issue(CA, Kind.CLIENT, "laptop")
OTHER = issue(CA, Kind.CLIENT, "phone")
STRANGER = issue(make_ca(), Kind.CLIENT, "laptop")
WHOLE = bundle.write(bundle.Bundle(CA.certificate, make_crl(CA), LAPTOP, ("t.example.org",)))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not a bundle"),
        (b"\x00\xff" * 1000, "is not a bundle"),
        (WHOLE[:-40], "is damaged: it ends too early"),
        (WHOLE[: len(WHOLE) // 2], "is damaged: it ends too early"),
        (WHOLE.replace(b"\nMII", b"\nMIJ", 1), "is damaged"),
        (WHOLE.replace(b"-----END PRIVATE", b"-----end PRIVATE"), "is damaged"),
        (WHOLE + WHOLE, "is not a bundle"),
        (WHOLE + OTHER.key_pem, "is not a bundle"),
        (CA.certificate_pem + LAPTOP.certificate_pem, "is not a bundle"),
        (LAPTOP.certificate_pem + LAPTOP.key_pem, "is not a bundle"),
        (CA.certificate_pem + LAPTOP.certificate_pem + OTHER.key_pem, "its key does not belong to its certificate"),
        (CA.certificate_pem + STRANGER.certificate_pem + STRANGER.key_pem, "its certificate is not from its CA"),
        (WHOLE + b"-----BEGIN DH PARAMETERS-----\nAA==\n-----END DH PARAMETERS-----\n", "contains a DH PARAMETERS"),
        (
            bundle.write(bundle.Bundle(CA.certificate, make_crl(make_ca()), LAPTOP)),
            "its revocation list is not from its CA",
        ),
        (
            bundle.write(bundle.Bundle(CA.certificate, make_crl(CA, {LAPTOP.certificate.serial_number: NOW}), LAPTOP)),
            "the certificate 'laptop' in x.pem is revoked",
        ),
    ],
)
def test_bundles_that_are_not_kept(content: bytes, complaint: str) -> None:
    with pytest.raises(PkiError, match=complaint) as raised:
        bundle.parse(content, "x.pem", NOW)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("days", [826, 4000])
def test_bundles_that_are_too_old(days: int) -> None:
    with pytest.raises(PkiError, match=r"'laptop' in x\.pem expired on .*; ask for a new bundle"):
        bundle.parse(WHOLE, "x.pem", NOW + timedelta(days=days))


@pytest.mark.parametrize("change", ["windows", "order", "mail"])
def test_bundles_that_came_a_long_way(change: str) -> None:
    match change:
        case "windows":
            content = b"\xef\xbb\xbf" + WHOLE.replace(b"\n", b"\r\n")
        case "order":
            content = LAPTOP.key_pem + LAPTOP.certificate_pem + CA.certificate_pem
        case _:
            content = b"Hello,\n\nhere it is:\n\n" + WHOLE + b"\nYours\n"
    parsed = bundle.parse(content, "x.pem", NOW)
    assert parsed.identity.certificate == LAPTOP.certificate
    assert parsed.ca == CA.certificate


def test_what_a_bundle_says_of_servers_is_only_a_hint() -> None:
    for hint in (b"$(reboot)", b"\x1b[2J", b"\xff", b""):
        assert bundle.parse(WHOLE.replace(b"t.example.org", hint), "x.pem", NOW).servers == ()
