"""Whoever may change a directory on the way decides where keys go: that must be nobody but this user and root."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rtunnel.errors import PkiError
from rtunnel.pki import files, inventory, operations
from rtunnel.pki.bundle import parse, write
from rtunnel.pki.certificates import Algorithm
from rtunnel.pki.files import PRIVATE, Draft, locked, make_directory, publish, read
from rtunnel.pki.store import Store
from rtunnel.pki.unpack import unpack
from tests.needs import need_root
from tests.pki.parts import HOSTS

SOMEBODY = 4242


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of certificates, to which links of others lead."""
    path = tmp_path / "victim"
    made = Store(path)
    operations.init(made, HOSTS, algorithm=Algorithm.ED25519)
    operations.add_client(made, "laptop")
    return path


def bundle_of(store: Store) -> bytes:
    return write(operations.make_bundle(store, "laptop"))


OPERATIONS: dict[str, Callable[[Store, bytes], object]] = {
    "init": lambda store, _: operations.init(store, HOSTS, algorithm=Algorithm.ED25519),
    "client": lambda store, _: operations.add_client(store, "phone"),
    "renew": lambda store, _: operations.renew(store, "server"),
    "renew ca": lambda store, _: operations.renew_ca(store),
    "due": lambda store, _: operations.due(store),
    "revoke": lambda store, _: operations.revoke(store, "laptop"),
    "bundle": lambda store, _: operations.make_bundle(store, "laptop"),
    "import": lambda store, bundle: unpack(store, parse(bundle, "bundle", datetime.now(UTC))),
    "show": lambda store, _: inventory.take(store),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_link_in_the_directory_of_another_user(operation: str, victim: Path, tmp_path: Path) -> None:
    need_root()
    bundle, before = bundle_of(Store(victim)), tree(victim)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pki").symlink_to(victim)
    os.chown(theirs, SOMEBODY, -1)
    with pytest.raises(PkiError, match=rf"theirs belongs to the user {SOMEBODY}, .*; run this as {SOMEBODY}, or name"):
        OPERATIONS[operation](Store(theirs / "pki"), bundle)
    assert tree(victim) == before


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_directory_of_another_user(operation: str, victim: Path) -> None:
    need_root()
    bundle = bundle_of(Store(victim))
    os.chown(victim, SOMEBODY, -1)
    before = tree(victim)
    with pytest.raises(PkiError, match=f"victim belongs to the user {SOMEBODY}"):
        OPERATIONS[operation](Store(victim), bundle)
    assert tree(victim) == before


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whoever_called_sudo_is_another_user_here(
    operation: str, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a user who may call nothing but this, as root, could overwrite any file by a link."""
    need_root()
    bundle = bundle_of(Store(victim))
    monkeypatch.setenv("SUDO_UID", str(SOMEBODY))
    os.chown(victim, SOMEBODY, -1)
    with pytest.raises(PkiError, match=f"victim belongs to the user {SOMEBODY}"):
        OPERATIONS[operation](Store(victim), bundle)


def test_a_link_of_another_user_in_a_directory_for_everybody(victim: Path, tmp_path: Path) -> None:
    need_root()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "pki").symlink_to(victim)
    os.lchown(shared / "pki", SOMEBODY, SOMEBODY)
    before = tree(victim)
    with pytest.raises(PkiError, match=rf"pki is a link of the user {SOMEBODY}; remove it, or name another directory"):
        operations.add_client(Store(shared / "pki"), "phone")
    assert tree(victim) == before


def test_a_key_that_is_a_link_of_another_user(tmp_path: Path) -> None:
    need_root()
    tmp_path.chmod(0o1777)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "server.key").symlink_to("secret")
    os.lchown(tmp_path / "server.key", SOMEBODY, SOMEBODY)
    with pytest.raises(PkiError, match=f"server.key is a link of the user {SOMEBODY}"):
        read(tmp_path / "server.key")


def test_a_directory_for_everybody_on_the_way(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PkiError, match=f"other users may write in {shared}; first run: chmod o-w {shared}"):
        make_directory(shared / "sub" / "pki")
    assert tree(shared) == []
    shared.chmod(0o1777)
    make_directory(shared / "sub" / "pki")
    assert tree(shared) == ["sub", "sub/pki"]


def test_a_directory_for_a_group_on_the_way(tmp_path: Path) -> None:
    """As in many checkouts."""
    tmp_path.chmod(0o775)
    make_directory(tmp_path / "pki")
    with locked(tmp_path / "pki"):
        pass


def test_own_links(victim: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "absolute").symlink_to(victim)
    (tmp_path / "sub" / "relative").symlink_to("../victim/../victim")
    (tmp_path / "chain").symlink_to("sub/relative")
    (tmp_path / "loop").symlink_to("loop")
    for number, name in enumerate(("sub/absolute", "sub/relative", "chain", "sub/../chain")):
        operations.add_client(Store(tmp_path / name), f"client{number}")
    assert len(Store(victim).client_names()) == 5
    with pytest.raises(PkiError, match="too many levels of symbolic links"):
        make_directory(tmp_path / "loop")


def test_nothing_is_written_through_a_link(victim: Path, tmp_path: Path) -> None:
    """A file that replaces a link takes its place."""
    target, link = tmp_path / "target", victim / "server.crt"
    target.write_bytes(link.read_bytes())
    link.unlink()
    link.symlink_to(target)
    before = target.read_bytes()
    operations.renew(Store(victim), "server")
    assert target.read_bytes() == before
    assert not link.is_symlink()


def test_leftovers_behind_a_link_stay(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir(0o700)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".ours.tmp").touch()
    (tmp_path / "pki" / "clients").symlink_to(tmp_path / "elsewhere")
    with locked(tmp_path / "pki"):
        pass
    assert tree(tmp_path / "elsewhere") == [".ours.tmp"]


def test_a_directory_that_is_exchanged_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle may be written where another user has a say; it still goes to the directory that was there."""
    theirs, moved, target = tmp_path / "theirs", tmp_path / "moved", tmp_path / "target"
    theirs.mkdir()
    target.mkdir()
    fsync = os.fsync

    def exchange(descriptor: int) -> None:
        if not moved.exists():
            theirs.rename(moved)
            theirs.symlink_to(target)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", exchange)
    publish([Draft(theirs / "laptop.pem", b"secret", PRIVATE)], is_ours=False)
    assert tree(moved) == ["laptop.pem"]
    assert tree(target) == []


def test_bundles_of_other_users(tmp_path: Path) -> None:
    """Somebody carries a bundle to a machine, and root imports it there."""
    need_root()
    (tmp_path / "laptop.pem").write_text("x")
    for path in (tmp_path, tmp_path / "laptop.pem"):
        os.chown(path, SOMEBODY, -1)
    assert read(tmp_path / "laptop.pem", is_ours=False) == b"x"
    publish([Draft(tmp_path / "phone.pem", b"y", PRIVATE)], is_ours=False)


def test_a_pipe_in_place_of_a_file(victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.trusted_files.PATIENCE", 0.05)
    (victim / "ca.crl").unlink()
    os.mkfifo(victim / "ca.crl")
    with pytest.raises(PkiError, match=r"cannot read .*ca.crl: it is a pipe that has not come to its end within"):
        operations.revoke(Store(victim), "laptop")
    assert any("ca.crl: it is a pipe" in problem for problem in inventory.take(Store(victim)).problems)


def test_what_does_not_exist_is_not_refused(tmp_path: Path) -> None:
    files.check_directory(tmp_path / "a" / "b")
    with pytest.raises(PkiError, match="there is nothing in"):
        inventory.take(Store(tmp_path / "a" / "b"))
