"""Identities with a second key: both in one file, and none that does not belong to the certificate."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from rtunnel.access.identities import Identity, ephemeral_identity, identity_from_files, load_identity, make_identity
from rtunnel.errors import ConfigError
from rtunnel.pki.authority import make_self_signed
from rtunnel.pki.certificates import Kind
from rtunnel.tls.hedge import liboqs
from rtunnel.tls.hedge.schemes import SCHEMES
from rtunnel.tls.hedge.second import OID, SecondKey, check_second
from tests.needs import needs_liboqs

pytestmark = needs_liboqs

FALCON, MAYO = "Falcon-1024", "MAYO-5"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "identities" / "host.pem"


@pytest.fixture
def no_liboqs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    liboqs.look.cache_clear()
    yield
    monkeypatch.undo()
    liboqs.look.cache_clear()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    path.write_bytes(content)


def proves(identity: Identity) -> str:
    assert identity.second is not None
    return check_second(identity.certificate, bytes(32), "host", identity.second.prove(bytes(32), "host"))


@pytest.mark.parametrize("name", SCHEMES)
def test_it_is_made_once(path: Path, name: str) -> None:
    made = load_identity(path, "rtunnel host", name)
    assert proves(made) == name
    assert made.signature == f"ML-DSA-65 + {name}"
    for again in (load_identity(path, "x"), load_identity(path, "x", name)):
        assert (again.fingerprint, again.second) == (made.fingerprint, made.second)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size < 20_000
    extension = made.certificate.extensions.get_extension_for_oid(OID)
    assert not extension.critical
    digest = hashes.Hash(hashes.SHA256())
    assert made.second is not None
    digest.update(made.second.public)
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == name.encode() + b" " + digest.finalize()


def test_by_default_there_is_none(path: Path) -> None:
    found = load_identity(path, "x")
    assert found.second is None
    assert found.signature == "ML-DSA-65"
    assert ephemeral_identity().second is None
    assert proves(ephemeral_identity(MAYO)) == MAYO


@pytest.mark.parametrize("before", [None, MAYO])
def test_one_that_exists_is_never_replaced(path: Path, before: str | None) -> None:
    load_identity(path, "x", before)
    content = path.read_bytes()
    kinds = "ML-DSA-65" if before is None else "ML-DSA-65 + MAYO-5"
    with pytest.raises(ConfigError) as caught:
        load_identity(path, "x", FALCON)
    assert str(caught.value) == (
        f"{path} is an identity of {kinds}, and is never replaced: others know it by its fingerprint, and the new one "
        f"would have another. If you want that, stop what uses it, run `mv {path} {path}.old`, repeat this, and tell "
        "the others the new fingerprint"
    )
    assert path.read_bytes() == content


def test_no_such_kind(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^'SPHINCS' is not one of Falcon-1024, MAYO-5$"):
        load_identity(path, "x", "SPHINCS")
    assert not path.exists()


def _damaged(part: str) -> bytes:
    certificate, keys = make_identity("x", FALCON)
    plain = make_identity("x")
    at = keys.index(b"-----BEGIN RTUNNEL SECOND KEY-----")
    first, second = keys[:at], keys[at:]
    other = SecondKey.make(FALCON).write().encode()
    odd = make_self_signed("x", x509.UnrecognizedExtension(OID, b"odd"))
    lines = second.splitlines(keepends=True)
    mine = SecondKey.read(second.decode())
    halves = SecondKey(FALCON, mine.public, SecondKey.make(FALCON).private).write().encode()
    return {
        "missing": certificate + first,
        "foreign": certificate + first + other,
        "another kind": certificate + first + SecondKey.make(MAYO).write().encode(),
        "twice": certificate + keys + second,
        "not named": b"".join(plain) + other,
        "cut": certificate + first + b"".join([*lines[:10], lines[-1]]),
        "no end": certificate + first + b"".join(lines[:-1]),
        "text": certificate + first + b"".join([lines[0], b"aGVsbG8=\n", lines[-1]]),
        "odd certificate": odd.certificate_pem + odd.key_pem + second,
        "halves": certificate + first + halves,
    }[part]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("missing", "the second key that its certificate names is missing, or there are several"),
        ("foreign", "its second key does not belong to its certificate"),
        ("another kind", "its second key does not belong to its certificate"),
        ("twice", "the second key that its certificate names is missing, or there are several"),
        ("not named", "it has a second key that its certificate does not name"),
        ("cut", "its second key was cut"),
        ("no end", "the second key that its certificate names is missing, or there are several"),
        ("text", "its second key cannot be read"),
        ("odd certificate", "its certificate names a second key in an unknown way"),
        ("halves", "its second key is damaged"),
    ],
)
def test_damaged(path: Path, part: str, message: str) -> None:
    content = _damaged(part)
    write(path, content)
    with pytest.raises(ConfigError) as caught:
        load_identity(path, "x")
    assert str(caught.value) == (
        f"{path} is damaged: {message}; put back a copy, or remove it: then a new identity is made, and peers must be "
        "told its fingerprint"
    )
    assert path.read_bytes() == content


def test_the_order_of_the_blocks_does_not_matter(path: Path) -> None:
    certificate, keys = make_identity("x", MAYO)
    at = keys.index(b"-----BEGIN RTUNNEL SECOND KEY-----")
    write(path, keys[at:] + keys[:at] + certificate)
    assert proves(load_identity(path, "x")) == MAYO


def test_no_library_here(path: Path, request: pytest.FixtureRequest) -> None:
    load_identity(path, "x", MAYO)
    request.getfixturevalue("no_liboqs")
    other = path.with_name("client.pem")
    with pytest.raises(ConfigError) as caught:
        load_identity(path, "x")
    assert str(caught.value).startswith(f"{path}: its second key: needs the native library liboqs, and there is none ")
    assert str(caught.value).endswith("see 'liboqs, for --hedge' in docs/installing.rst")
    with pytest.raises(ConfigError, match=r"^needs the native library liboqs, and there is none "):
        load_identity(other, "x", MAYO)
    assert not other.exists()
    assert load_identity(other, "x").second is None


def test_files_of_an_organisation_have_none(tmp_path: Path) -> None:
    certificate, key = make_identity("x", MAYO)
    (tmp_path / "cert").write_bytes(certificate)
    (tmp_path / "key").write_bytes(key)
    with pytest.raises(ConfigError, match=r"/cert names a second key, which only identities that `rtunnel id` has "):
        identity_from_files(tmp_path / "cert", tmp_path / "key", Kind.HOST)
