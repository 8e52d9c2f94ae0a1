"""The clients file: what it says, and what is wrong with it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from rtunnel.access.amounts import Amounts
from rtunnel.access.rights import Rights, read_clients
from rtunnel.access.rules import Rules
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


def test_amounts(clients: Any) -> None:
    found = read_clients(clients("laptop: {bandwidth: 100Mbit, visitor-bandwidth: 1MB/s, quota: 500GB}\nold: {quota:}"))
    assert found.rights_of("laptop") == Rights(amounts=Amounts(100_000_000, 8_000_000, 500 * 10**9))
    assert found.rights_of("old") == Rights()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("App.Example.ORG", ("app.example.org",)),
        ("'app.example.org, *.dev.example.org'", ("app.example.org", "*.dev.example.org")),
        ("[app.example.org, '*.b\u00fccher.example']", ("app.example.org", "*.xn--bcher-kva.example")),
        ("none", ()),
        ("[]", ()),
    ],
)
def test_host_names(text: str, expected: tuple[str, ...], clients: Any) -> None:
    found = read_clients(clients(f"laptop: {{hosts: {text}}}\nold: {{hosts:}}"))
    assert found.rights_of("laptop") == Rights(hosts=expected)
    assert found.rights_of("old") == Rights()


def test_limits_of_visitors(clients: Any) -> None:
    text = """
        laptop:
          allow: [192.0.2.0/24, "2001:db8::/32"]
          deny: 192.0.2.7
          max-connections: 20
          max_connection_rate: 0.2
          max-requests: 10
        old: {allow:}
    """
    found = read_clients(clients(text))
    rights = found.rights_of("laptop")
    assert rights is not None
    assert rights.limits == Rules(
        (IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/32")), (IPv4Network("192.0.2.7"),), 20, 0.2, requests=10
    )
    assert found.rights_of("old") == Rights()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- laptop", "is not a mapping; write lines such as 'laptop: "),
        ("[laptop]", "is INI or TOML, and not YAML; "),
        ("laptop: 8000", "'laptop': is a single value and not a mapping"),
        ("laptop: {port: 8000}", "'laptop': unknown key 'port'; did you mean 'ports'?"),
        ("laptop: {ports: 80-70}", "'laptop': key 'ports': '80-70' ends before it begins"),
        ("laptop: {quota: 5}", "'laptop': key 'quota': 5 is out of range; write 1MB to"),
        ("laptop: {visitor_bandwidth: 5M}", "'laptop': key 'visitor-bandwidth': '5M' is not a bandwidth; write one"),
        ("laptop: {streams: -1}", "'laptop': key 'streams': -1 is out of range"),
        ("laptop: {hosts: '*'}", "'laptop': key 'hosts': '*' would be every name there is; write app.example.org or"),
        ("laptop: {hosts: ['a.*.b']}", "'laptop': key 'hosts': 'a.*.b' has a * elsewhere than at its beginning"),
        ("laptop: {hosts: [a, 192.0.2.1]}", "'laptop': key 'hosts': '192.0.2.1' is not a host name"),
        ("laptop: {hosts: http://a/}", "'laptop': key 'hosts': 'http://a/' is a URL and not a host name; write a"),
        ("laptop: {host: a}", "'laptop': unknown key 'host'; did you mean 'hosts'?"),
        ("laptop: {shared: perhaps}", "'laptop': key 'shared': 'perhaps' is neither true nor false"),
        ("laptop: {token: short}", "'laptop': key 'token': is not a token: it has 5 characters"),
        ("a: {token: correct-horse}\nb: {token: correct-horse}", "'b': key 'token': is a token that occurs twice"),
        ("'*': {token: correct-horse}", "key 'token': cannot be everybody's"),
        ("laptop: {max-connection: 1}", "'laptop': unknown key 'max-connection'; did you mean 'max-connections'?"),
        (
            "laptop: {max-connections: 0}",
            "'laptop': key 'max-connections': 0 is out of range; write a whole number from",
        ),
        ("laptop: {max_connection_rate: x}", "key 'max-connection-rate': 'x' is not a number of connections a second"),
        ("laptop: {allow: 10.0.0.1/8}", "'laptop': key 'allow': '10.0.0.1/8' is not a network; write 10.0.0.0/8"),
        ("laptop: {allow: none}", "'laptop': key 'allow': has no network; write one such as 192.0.2.0/24, or leave"),
        ("laptop: {group: web}", "'laptop': unknown key 'group'"),
        ("8000: {}", "8000 is not a name; put it in quotes"),
        ("a: {}\na: {}", "key 'a' occurs twice; keep one"),
        (
            "a: {}\nb.example:\n  ports: 80\n  streams: x\n",
            "clients.yaml: line 4: 'b.example': key 'streams': 'x' is not",
        ),
        ("a: {}\nb:\n  ports: 80\n  prots: 80\n", "clients.yaml: line 4: 'b': unknown key 'prots'"),
        (
            "a: {}\nb:\n  ports: 80\n  deny:\n   - 10.0.0.0/8\n   - x\n",
            "clients.yaml: line 6: 'b': key 'deny': 'x' is not a network",
        ),
        ("a: {token: correct-horse}\nb:\n  token: correct-horse", "clients.yaml: line 3: 'b': key 'token': is a token"),
        ("a: {}\n8000: {}", "clients.yaml: line 2: 8000 is not a name"),
        ("a: {}\nb: 7", "clients.yaml: line 2: 'b': is a single value"),
    ],
)
def test_wrong_clients_file(text: str, problem: str, clients: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read_clients(clients(text))
    assert problem in str(caught.value)
    assert "clients.yaml" in str(caught.value)
