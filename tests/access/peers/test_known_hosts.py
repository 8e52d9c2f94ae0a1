"""The file of known hosts: what it says, what is wrong with it, and how it is extended."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.peers.known_hosts import add_host, read_known_hosts
from rtunnel.errors import ConfigError
from tests.access.peers.parts import SOMEBODY
from tests.needs import need_root

ONE, OTHER = "ab" * 32, "cd" * 32
SHORT = show_fingerprint(ONE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "known_hosts"


def test_a_new_file(path: Path) -> None:
    add_host(path, "my host", ONE)
    add_host(path, 'a "quoted": one', OTHER)
    add_host(path, "my host", ONE)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# Hosts of the WebRTC tunnel that this client trusts")
    assert lines[1:] == [f'"my host": {SHORT}', f'"a \\"quoted\\": one": {show_fingerprint(OTHER)}']
    assert read_known_hosts(path) == {"my host": (ONE[:35],), 'a "quoted": one': (OTHER[:35],)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_comments_order_and_permissions_stay(path: Path) -> None:
    path.parent.mkdir()
    before = f"# mine\nb: {OTHER}   # the old one\n\na:\n  - {SHORT}\n  - {OTHER}"
    path.write_text(before)
    path.chmod(0o640)
    add_host(path, "c", ONE)
    assert path.read_text() == f'{before}\n"c": {SHORT}\n'
    assert read_known_hosts(path) == {"b": (OTHER,), "a": (ONE[:35], OTHER), "c": (ONE[:35],)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_another_key_is_not_added(path: Path) -> None:
    add_host(path, "x", ONE)
    before = path.read_text()
    with pytest.raises(ConfigError, match="has another fingerprint of host 'x'; if that is over, remove its line"):
        add_host(path, "x", OTHER)
    assert path.read_text() == before


@pytest.mark.parametrize("content", ["{}", "{a: " + "ab" * 32 + "}", f"a: {SHORT}\n..."])
def test_a_file_that_cannot_be_extended(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        add_host(path, "x", ONE)
    assert f'write by hand: "x": {SHORT}' in str(caught.value)
    assert path.read_text() == content


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps({"x": ONE}))
    assert read_known_hosts(path) == {"x": (ONE,)}
    with pytest.raises(ConfigError, match=r"nothing can be added to this file \(it is JSON\); write by hand: \"y\": "):
        add_host(path, "y", ONE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- x", "is not a mapping; write lines such as 'myhost: FINGERPRINT'"),
        ("# x\nx:", "line 2: 'x': has no fingerprint; write what 'rtunnel id' prints on the host"),
        ("x: []", "line 1: 'x': has no fingerprint"),
        (f"x: {SHORT[:-1]}g", "line 1: 'x': 'nentq-axbne-ntqax-bnent-qaxbn-ent4g' has a typing error, perhaps in the "),
        (f"x:\n - {SHORT}\n - hi!", "line 3: 'x': 'hi!' is not a fingerprint"),
        (f"x: {{y: {SHORT}}}", "line 1: 'x': "),
        (f"1: {SHORT}", "line 1: 1 is not an ID; put it in quotes"),
        (f"x: {SHORT}\nx: {SHORT}", "line 2: key 'x' occurs twice; keep one"),
        (f"x: &a {SHORT}\ny: *a", "line 2: '*a' repeats another part of the file, which is not allowed"),
        (f"x: [{', '.join([ONE] * 17)}]", "line 1: 'x': has 17 fingerprints, and 16 is the most"),
    ],
)
def test_mistakes(path: Path, content: str, message: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_known_hosts(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_files_of_others(path: Path) -> None:
    add_host(path, "x", ONE)
    path.chmod(0o646)
    with pytest.raises(ConfigError, match=r"every user of this machine may change .*chmod o-w"):
        read_known_hosts(path)
    with pytest.raises(ConfigError, match=r"every user of this machine may change .*chmod o-w"):
        add_host(path, "y", ONE)
    path.chmod(0o600)
    need_root()
    os.chown(path, SOMEBODY, -1)
    with pytest.raises(ConfigError, match=f"belongs to the user {SOMEBODY}, who could change"):
        read_known_hosts(path)


def test_directories_of_others(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match=r"other users may write in .*chmod go-w"):
        add_host(path, "x", ONE)
    assert not path.exists()


def test_huge(path: Path) -> None:
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(ConfigError, match="it is larger than 16 MB"):
        read_known_hosts(path)
