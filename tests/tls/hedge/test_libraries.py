"""Libraries that cannot be used, and where they are looked for. None of them is a real one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rtunnel.errors import ConfigError
from rtunnel.tls.hedge import liboqs
from rtunnel.tls.hedge.liboqs import Liboqs
from rtunnel.wire.data.hedges import KEMS

MCELIECE, FRODO = KEMS
SIZES = {name: (kem.public_key, kem.ciphertext, 32) for name, kem in KEMS.items()}


def _function(result: Any = None) -> Any:
    """A function with attributes, as those of ctypes have."""

    def call(*_arguments: Any) -> Any:
        return result

    return call


def _library(kems: dict[str, tuple[int, int, int]], version: bytes = b"0.16.0") -> Any:
    """A library that has these KEMS, of these sizes: public key, ciphertext, secret."""

    def new(name: bytes) -> Any:
        sizes = kems.get(name.decode())
        if sizes is None:
            return None
        names = ("length_public_key", "length_ciphertext", "length_shared_secret")
        return SimpleNamespace(contents=SimpleNamespace(**dict(zip(names, sizes, strict=True)), length_secret_key=64))

    others = {name: _function() for name in liboqs._FUNCTIONS}
    return SimpleNamespace(**others | {"OQS_KEM_new": new, "OQS_version": _function(version)})


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Nothing is installed, until the test says what the system has."""
    liboqs.look.cache_clear()
    monkeypatch.delenv("OQS_INSTALL_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(liboqs, "find_library", lambda _name: None)
    yield lambda found: monkeypatch.setattr(liboqs, "find_library", lambda name: found if name == "oqs" else None)
    liboqs.look.cache_clear()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was loaded; it always works."""
    paths: list[str] = []

    def load(path: str) -> Any:
        paths.append(path)
        return _library(SIZES)

    monkeypatch.setattr("ctypes.CDLL", load)
    return paths


def test_the_sizes_that_we_expect() -> None:
    library = Liboqs(_library(SIZES), "/usr/lib/liboqs.so.9")
    assert (library.version, str(library)) == ("0.16.0", "liboqs 0.16.0 (/usr/lib/liboqs.so.9)")
    assert [library.kem(name).kem for name in KEMS] == list(KEMS.values())


def test_a_newer_version_has_our_frodo_by_another_name() -> None:
    newer = {"eFrodoKEM-1344-AES": SIZES[FRODO], FRODO: (21520, 21696, 32)}
    assert Liboqs(_library(newer), "x").kem(FRODO).kem is KEMS[FRODO]


def test_a_version_with_another_algorithm_by_that_name() -> None:
    library = Liboqs(_library({FRODO: (21520, 21696, 32)}, b"0.99.0"), "/opt/liboqs.so")
    text = (
        f"liboqs 0.99.0 (/opt/liboqs.so) has another {FRODO}: 21520 bytes of public key, 21696 of ciphertext and 32 of "
        "secret instead of 21520 bytes of public key, 21632 of ciphertext and 32 of secret; use another version of it"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        library.kem(FRODO)


def test_a_version_that_was_built_without_it() -> None:
    with pytest.raises(ConfigError, match=rf"^liboqs 0.16.0 \(x\) was built without {MCELIECE}; build it with"):
        Liboqs(_library({FRODO: SIZES[FRODO]}), "x").kem(MCELIECE)


@pytest.mark.parametrize("name", liboqs._FUNCTIONS)
def test_a_library_without_a_function(name: str) -> None:
    library = _library(SIZES)
    delattr(library, name)
    with pytest.raises(ConfigError, match=f"^/x is no liboqs of 0.8 or later: it has no function {name}$"):
        Liboqs(library, "/x")


@pytest.mark.usefixtures("looked")
def test_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^needs the native library liboqs, and there is none on this machine; "):
        liboqs.hedges([FRODO])
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    # It is not looked for with each connection that needs it.
    with pytest.raises(ConfigError, match=r"and there is none on this machine; "):
        liboqs.load()
    liboqs.look.cache_clear()
    with pytest.raises(ConfigError, match=rf"and there is none in {re.escape(str(tmp_path))} \(OQS_INSTALL_PATH\); "):
        liboqs.load()


@pytest.mark.usefixtures("looked")
def test_what_is_there_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / liboqs._FILES[0]
    file.parent.mkdir()
    file.write_text("no library")
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=rf"\(OQS_INSTALL_PATH\); {re.escape(str(file))} cannot be loaded: "):
        liboqs.load()


def test_where_it_is_looked_for(
    looked: Callable[[str], None], loaded: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs, given = tmp_path / "_oqs" / liboqs._FILES[-1], tmp_path / "given" / liboqs._FILES[0]
    for file in (theirs, given):
        file.parent.mkdir(parents=True)
        file.touch()
    liboqs.load()
    liboqs.look.cache_clear()
    looked("liboqs.so.9")
    liboqs.load()
    liboqs.look.cache_clear()
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path / "given"))
    liboqs.load()
    assert loaded == [str(theirs), "liboqs.so.9", str(given)]
