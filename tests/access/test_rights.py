"""The clients file: what it says, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rtunnel.access.rights import Rights, read_clients
from rtunnel.access.tokens import find_token
from rtunnel.addresses import PortRanges
from rtunnel.errors import ConfigError

TOKEN = "correct-horse"


@pytest.fixture
def clients(tmp_path: Path) -> Any:
    """Writes the clients file."""
    path = tmp_path / "clients.yaml"

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def test_clients_file(clients: Any) -> None:
    found = read_clients(
        clients(
            """
            laptop: {ports: "8000-8010,9443", tunnels: 2, streams: 100, shared: no, links: 3}
            my-phone:
              ports: [80, 443]
              token: correct-horse
            old:
            "*": {ports: none}
            """
        )
    )
    assert found.rights_of("laptop") == Rights(PortRanges.parse("8000-8010,9443"), 2, 100, False, 3)
    assert found.rights_of("my-phone") == Rights(PortRanges.parse("80,443"))
    assert found.rights_of("old") == Rights()
    assert found.rights_of("stranger") == found.rights_of("") == found.rights_of("*") == Rights(PortRanges(()))
    token = find_token(found.tokens, TOKEN)
    assert token is not None
    assert token.name == "my-phone"
    assert TOKEN not in repr(found)
    assert read_clients(clients("")).rights_of("laptop") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- laptop", "is not a mapping; write lines such as 'laptop: "),
        ("[laptop]", "is INI or TOML, and not YAML; "),
        ("laptop: 8000", "'laptop': is a single value and not a mapping"),
        ("laptop: {port: 8000}", "'laptop': unknown key 'port'; did you mean 'ports'?"),
        ("laptop: {ports: 80-70}", "'laptop': key 'ports': '80-70' ends before it begins"),
        ("laptop: {streams: -1}", "'laptop': key 'streams': -1 is out of range"),
        ("laptop: {shared: perhaps}", "'laptop': key 'shared': 'perhaps' is neither true nor false"),
        ("laptop: {token: short}", "'laptop': key 'token': is not a token: it has 5 characters"),
        ("a: {token: correct-horse}\nb: {token: correct-horse}", "'b': key 'token': is a token that occurs twice"),
        ("'*': {token: correct-horse}", "key 'token': cannot be everybody's"),
        ("8000: {}", "8000 is not a name; put it in quotes"),
        ("a: {}\na: {}", "key 'a' occurs twice; keep one"),
    ],
)
def test_wrong_clients_file(text: str, problem: str, clients: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read_clients(clients(text))
    assert problem in str(caught.value)
    assert "clients.yaml" in str(caught.value)
