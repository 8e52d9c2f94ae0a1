"""What reading a text costs grows with the text: whoever writes a file or a header does not choose how long we read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from twisted.internet.defer import Deferred

from rtunnel.access.passwords import Passwords
from rtunnel.access.rules import read_rules
from rtunnel.access.tokens import parse_tokens
from rtunnel.access.web_admission import Origins
from rtunnel.addresses import DialAddress, ListenAddress, PortRanges
from rtunnel.coercions import seconds, size
from rtunnel.config_file import _parse_json, load_file
from rtunnel.endpoint_strings import split_description
from rtunnel.host_names import canonical_path
from rtunnel.options.settings.tunnels import publish
from rtunnel.pki import names, pem
from rtunnel.rtc.aiortc.sdp import read_description
from rtunnel.yaml_file import Loader
from tests.scaling import assert_grows_with


def repeated(piece: str, count: int) -> str:
    return piece * (count // len(piece))


def origin(count: int) -> str:
    return "https://" + "a" * count


@pytest.mark.parametrize("piece", ["-----BEGIN A-----\n", "-----BEGIN " + "A" * 64, "-", "-----END A-----\n"])
def test_pem(piece: str) -> None:
    assert_grows_with(lambda count: repeated(piece, count).encode(), lambda text: list(pem.blocks(text)), 5000)
    assert_grows_with(lambda count: repeated(piece, count).encode(), pem.is_encrypted, 5000)


def test_a_private_key() -> None:
    """The guard alone: what is found wanting here goes no further."""
    begin = "-----BEGIN PRIVATE KEY-----\n"
    assert_grows_with(lambda count: repeated(begin, count).encode(), pem.load_key, 5000)


def test_origins() -> None:
    assert_grows_with(origin, Origins(["https://*a*a*b.com"]).allow, 80)


def test_tokens() -> None:
    assert_grows_with(lambda count: [f"client{number}:token{number:08}" for number in range(count)], parse_tokens, 500)


def sections(count: int) -> yaml.MappingNode:
    """What is parsed of many sections of the same name, with a key each."""
    mark = yaml.Mark("x.yaml", 0, 0, 0, None, 0)

    def mapping(key: str, value: yaml.Node) -> tuple[yaml.Node, yaml.Node]:
        return yaml.ScalarNode("tag", key, mark, mark), value

    one = yaml.ScalarNode("tag", "1", mark, mark)
    found = [yaml.MappingNode("tag", [mapping(f"b{number}", one)], mark, mark) for number in range(count)]
    return yaml.MappingNode("tag", [mapping("a", each) for each in found], mark, mark)


def test_sections_of_the_same_name() -> None:
    # Merging changes what is merged, so each attempt has its own.
    assert_grows_with(int, lambda count: Loader("")._merge(sections(count), []), 200)


def keys(count: int) -> str:
    return "".join(f"key{number}: 1\n" for number in range(count))


def twice(count: int) -> str:
    return "{" + ", ".join(f'"{number}": 1' for number in [*range(count), count - 1]) + "}"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (keys, "x.yaml"),
        (partial(repeated, "- [{"), "x.yaml"),
        (partial(repeated, "- a\n"), "x.yaml"),
    ],
    ids=["keys", "nested", "list"],
)
def test_configuration(make: Callable[[int], str], name: str, tmp_path: Path) -> None:
    def write(count: int) -> Path:
        path = tmp_path / str(count) / name
        path.parent.mkdir()
        path.write_text(make(count))
        return path

    assert_grows_with(write, lambda path: load_file(str(path), []), 60)


@pytest.mark.parametrize(
    "piece", ["\\", "\\:", "a=", ":", "[", "1,", "1-2,", ".", "a.", "ä", "::", "]:1", " ,", "tcp:1=", "1-"]
)
def test_addresses(piece: str) -> None:
    readers: list[Callable[[str], object]] = [
        split_description,
        ListenAddress.parse,
        DialAddress.parse,
        DialAddress.parse_udp,
        lambda text: publish([text]),
        lambda text: publish([f"tcp:1-2={text}1-2"]),
        lambda text: publish([f"http:a/{text}=80"]),
        lambda text: read_rules({"allow": text}),
        PortRanges.parse,
        seconds(zero=True),
        size(0, 1),
        lambda text: names.hosts([text, "[" + text]),
    ]
    for read in readers:
        assert_grows_with(partial(repeated, piece), read, 2000)


@pytest.mark.parametrize("line", ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=candidate:x", "a=mid:0", ""])
def test_session_descriptions(line: str) -> None:
    assert_grows_with(lambda count: "v=0\r\n" + repeated(f"{line}\r\n", count), read_description, 6000)


def test_a_json_key_that_is_there_twice() -> None:
    assert_grows_with(twice, lambda text: _parse_json(text, "x.json"), 500)


def test_json_says_which_key_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(twice(1000))
    assert len(json.loads(path.read_text())) == 1000
    with pytest.raises(ValueError, match="key '999' occurs twice; keep one"):
        load_file(str(path))


@pytest.mark.parametrize("piece", ["/.", "/..", "/a/..", "%2e", "/%2e%2e", "%", "/a"])
def test_the_path_of_a_request(piece: str) -> None:
    assert_grows_with(lambda count: f"/{repeated(piece, count)}/.", canonical_path, 5000)


@pytest.mark.parametrize("piece", [b"A", b"=", b" ", b"Basic "])
def test_credentials(piece: bytes) -> None:
    checked = Passwords(lambda _: Deferred(), lambda: 0.0)
    users = (("alice", "$scrypt$"),)
    assert_grows_with(lambda count: b"Basic " + piece * count, partial(checked.check, users, address="x"), 5000)
