"""Identities: made once, kept for this user only, and never taken from a file that others could have made."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from OpenSSL import SSL
from OpenSSL._util import lib as openssl_library

from rtunnel.access.identities import (
    ephemeral_identity,
    identity_from_files,
    load_identity,
    make_identity,
    parse_fingerprint,
    show_fingerprint,
)
from rtunnel.errors import ConfigError
from rtunnel.pki.certificates import Algorithm, Kind, common_name, fingerprint, key_kind, may_be, signed_by
from rtunnel.tls.openssl import use_private_key
from tests.access.peers.parts import SOMEBODY, Organisation
from tests.needs import need_root

MAKE = """
import sys
from pathlib import Path
from rtunnel.access.identities import load_identity
print("ready", flush=True)
sys.stdin.readline()
print(load_identity(Path(sys.argv[1]), "x").fingerprint)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "identities" / "host.pem"


def test_it_is_made_once(path: Path) -> None:
    made = load_identity(path, "rtunnel host")
    again = load_identity(path, "rtunnel host")
    assert made.fingerprint == again.fingerprint == fingerprint(made.certificate)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(each.name for each in path.parent.iterdir()) == [".lock", "host.pem"]
    assert parse_fingerprint(show_fingerprint(made.fingerprint)) == made.fingerprint[:35]


def test_what_it_is() -> None:
    identity = ephemeral_identity()
    certificate = identity.certificate
    assert key_kind(certificate) == "ML-DSA-65"
    assert signed_by(certificate, certificate)
    assert identity.chain == ()
    assert may_be(certificate, Kind.SERVER)
    assert may_be(certificate, Kind.CLIENT)
    # Also for a machine whose clock is not set.
    assert certificate.not_valid_before_utc == datetime(2000, 1, 1, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_certificate(certificate)
    use_private_key(context, identity.key)
    context.check_privatekey()
    assert identity.fingerprint != ephemeral_identity().fingerprint


@pytest.mark.process
def test_two_processes_at_once(path: Path) -> None:
    """Both wait until the other is there too."""
    both = [
        subprocess.Popen([sys.executable, "-c", MAKE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for each in both:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in both:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    outputs = [each.communicate(timeout=60)[0] for each in both]
    assert outputs[0] == outputs[1] == f"{load_identity(path, 'x').fingerprint}\n"


def test_a_directory_that_cannot_be_written_is_enough_for_one_that_exists(path: Path) -> None:
    made = load_identity(path, "x")
    path.parent.chmod(0o500)
    assert load_identity(path, "x").fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (0o604, "every user of this machine can read the key in {path}; if nobody has, run: chmod 600 {path}; else "),
        (0o602, "every user of this machine can change the key in {path}"),
        (0o620, "other users can change the key in {path}"),
    ],
)
def test_permissions(path: Path, mode: int, message: str) -> None:
    load_identity(path, "x")
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load_identity(path, "x")
    assert str(caught.value).startswith(f"the identity of this machine: {message.format(path=path)}")
    path.chmod(0o640)
    load_identity(path, "x")


def test_owners(path: Path) -> None:
    load_identity(path, "x")
    need_root()
    os.chown(path, SOMEBODY, -1)
    with pytest.raises(ConfigError, match=f"{path} belongs to the user {SOMEBODY}, who knows the key in it; run this"):
        load_identity(path, "x")


def test_directories_of_others(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match=f"other users may write in {path.parent}; first run: chmod go-w"):
        load_identity(path, "x")
    path.parent.chmod(0o700)
    need_root()
    os.chown(path.parent, SOMEBODY, -1)
    with pytest.raises(ConfigError, match=f"belongs to the user {SOMEBODY}, who could exchange what is in it"):
        load_identity(path, "x")
    assert not path.exists()


def test_links_of_others(path: Path, tmp_path: Path) -> None:
    load_identity(tmp_path / "other.pem", "x")
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "other.pem")
    assert load_identity(path, "x").fingerprint
    need_root()
    os.lchown(path, SOMEBODY, -1)
    with pytest.raises(ConfigError, match=f"is a link of the user {SOMEBODY}; remove it"):
        load_identity(path, "x")


def _damaged(part: str) -> bytes:
    certificate, key = make_identity("x")
    other = make_identity("y")[1]
    return {
        "empty": b"",
        "no key": certificate,
        "no certificate": key,
        "cut": (certificate + key)[:-100],
        "text": b"hello",
        "wrong key": certificate + other,
    }[part]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("empty", "is damaged: it has no certificate with its key in PEM; put back a copy, or remove it"),
        ("no key", "is damaged: it has no certificate with its key in PEM"),
        ("no certificate", "is damaged: it has no certificate with its key in PEM"),
        ("cut", "is damaged: it has no certificate with its key in PEM"),
        ("text", "is damaged: it has no certificate with its key in PEM"),
        ("wrong key", "is damaged: its key does not belong to its certificate; put back a copy, or remove it"),
    ],
)
def test_damaged(path: Path, part: str, message: str) -> None:
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    content = _damaged(part)
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_identity(path, "x")
    assert str(caught.value).startswith(f"{path} {message}")
    assert path.read_bytes() == content


def test_no_file(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"{path} is not a file; remove it, and a new identity is made"):
        load_identity(path, "x")
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match=f"{path} is not a file"):
        load_identity(path, "x")


def test_huge(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=f"cannot read {path}: it is too large"):
        load_identity(path, "x")


def test_it_cannot_be_stored() -> None:
    with pytest.raises(ConfigError, match="the identity of this machine: cannot write /proc/"):
        load_identity(Path("/proc/rtunnel/identities/host.pem"), "x")


class TestFromAnOrganisation:
    def test_it(self, tmp_path: Path) -> None:
        issued = Organisation(tmp_path).issue("laptop")
        cert, key = tmp_path / "cert", tmp_path / "key"
        cert.write_bytes(issued.certificate_pem)
        key.write_bytes(issued.key_pem)
        identity = identity_from_files(cert, key, Kind.CLIENT)
        assert common_name(identity.certificate) == "laptop"
        assert identity.fingerprint == fingerprint(issued.certificate)

    def test_mistakes(self, tmp_path: Path) -> None:
        issued = Organisation(tmp_path).issue("laptop")
        cert, key = tmp_path / "cert", tmp_path / "key"
        with pytest.raises(ConfigError, match=f"{cert} cannot be read: .*--identity-cert"):
            identity_from_files(cert, key, Kind.CLIENT)
        cert.write_bytes(issued.certificate_pem)
        with pytest.raises(ConfigError, match=f"{key} cannot be read: .*--identity-key"):
            identity_from_files(cert, key, Kind.CLIENT)
        key.write_bytes(make_identity("x")[1])
        with pytest.raises(ConfigError, match=f"{key} is not the key of {cert}; give the two that belong together"):
            identity_from_files(cert, key, Kind.CLIENT)

    @pytest.mark.parametrize(("kind", "other"), [(Kind.HOST, Kind.CLIENT), (Kind.CLIENT, Kind.HOST)])
    def test_of_the_other_end(self, tmp_path: Path, kind: Kind, other: Kind) -> None:
        issued = Organisation(tmp_path).issue("laptop", other)
        cert, key = tmp_path / "cert", tmp_path / "key"
        cert.write_bytes(issued.certificate_pem)
        key.write_bytes(issued.key_pem)
        assert identity_from_files(cert, key, other).certificate == issued.certificate
        with pytest.raises(ConfigError, match=rf"{cert} is not for a {kind}: .*; make one with `rtunnel pki {kind}`$"):
            identity_from_files(cert, key, kind)

    def test_classical(self, tmp_path: Path) -> None:
        issued = Organisation(tmp_path, Algorithm.ED25519).issue("laptop")
        cert, key = tmp_path / "cert", tmp_path / "key"
        cert.write_bytes(issued.certificate_pem)
        key.write_bytes(issued.key_pem)
        with pytest.raises(ConfigError, match="has a key of Ed25519, which a quantum computer can forge; use"):
            identity_from_files(cert, key, Kind.CLIENT)


def test_whatever_openssl_has_failed_at_before(path: Path, tmp_path: Path) -> None:
    """An error that somebody else has left in its queue is not ours."""
    made = load_identity(path, "x")
    cert, key = tmp_path / "both.crt", tmp_path / "both.key"
    for each in (cert, key):
        each.write_bytes(path.read_bytes())
        each.chmod(0o600)
    for load in (lambda: load_identity(path, "x"), lambda: identity_from_files(cert, key, Kind.CLIENT)):
        assert openssl_library.SSL_CTX_set_cipher_list(SSL.Context(SSL.TLS_METHOD)._context, b"none of this name") == 0
        assert load().fingerprint == made.fingerprint
