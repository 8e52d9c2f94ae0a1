"""What is kept between two runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rtunnel.acme.renewal import Attempts
from rtunnel.acme.state import State
from rtunnel.errors import PkiError


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state" / "acme" / "ca")


def test_only_the_owner_reads_it(state: State) -> None:
    path = state.certificate("app.example.org")
    assert state.read(path) is None
    state.write(path, b"key")
    state.write(path, b"another key")
    assert state.read(path) == b"another key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["app.example.org.pem"]


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_what_others_can_have_written(state: State) -> None:
    path = state.certificate("app.example.org")
    state.write(path, b"key")
    path.chmod(0o602)
    with pytest.raises(PkiError, match=f"^every user of this machine may change {path}; run: chmod o-w {path}$"):
        state.read(path)


def test_attempts(state: State) -> None:
    assert state.read_attempts("app.example.org", 0.0) == Attempts()
    state.write_attempts("app.example.org", Attempts(2, 100.0))
    assert state.read_attempts("app.example.org", 0.0) == Attempts(2, 100.0)
    state.write_attempts("app.example.org", Attempts())
    state.write_attempts("app.example.org", Attempts())
    assert list(state.directory.iterdir()) == []


def test_long_names(state: State) -> None:
    names = [".".join(["a" * 60] * 4) + end for end in ("", "b", "c")]
    for name in names:
        state.write(state.certificate(name), name.encode())
        state.write_attempts(name, Attempts(1, 1.0))
    assert [state.read(state.certificate(name)) for name in names] == [name.encode() for name in names]


def test_what_is_in_the_way(state: State, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(PkiError, match="state"):
        state.write(state.account, b"")
    assert state.read(state.account) is None


def test_put_aside(state: State) -> None:
    state.write(state.account, b"garbage")
    state.put_aside(state.account)
    assert state.read(state.account) is None
    assert (state.directory / "account.json.bad").read_bytes() == b"garbage"
