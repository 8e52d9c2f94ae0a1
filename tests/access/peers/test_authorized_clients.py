"""The file of a host's clients: what it says, what is wrong with it, and how it is extended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from rtunnel.access.peers.authorized_clients import add_client, read_authorized_clients
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.peers.rights import EVERYTHING, ClientRights, ServiceRights
from rtunnel.errors import Code, ConfigError

ONE, OTHER, THIRD = "ab" * 32, "cd" * 32, "ef" * 32
SHORT = show_fingerprint(ONE)
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "authorized_clients"


def test_the_file(path: Path) -> None:
    path.write_text(
        f"""
        laptop:
          fingerprint: {SHORT}
          services: [web, "(default)"]
          streams: 100
          bandwidth: 20Mbit
          until: 2027-03-31
        phone:
          fingerprint: {OTHER}
          services:
            web: {{bandwidth: 1MB/s, streams: 5}}
            dns:
            ssh: {{until: "2027-03-31T18:00+02:00"}}
        old: {{fingerprint: {THIRD}}}
        """
    )
    found = read_authorized_clients(path)
    end = datetime(2027, 4, 1, tzinfo=UTC)
    assert found.known(ONE) == ("laptop", ClientRights(frozenset({"web", ""}), 100, 2_500_000, end))
    six = datetime(2027, 3, 31, 18, tzinfo=timezone(timedelta(hours=2)))
    of_service = {"web": ServiceRights(5, 1_000_000), "ssh": ServiceRights(until=six)}
    assert found.known(OTHER) == ("phone", ClientRights(frozenset({"web", "dns", "ssh"}), of_service=of_service))
    assert found.known(THIRD) == ("old", EVERYTHING)
    # The first 140 bits are the same, and not the rest.
    assert found.known(OTHER[:-1] + "0") is None
    assert found.known("12" * 32) is None
    assert found.certified("laptop") is None


def test_names_in_certificates(path: Path) -> None:
    path.write_text('office: {services: [web]}\n"*": {services: []}\n')
    found = read_authorized_clients(path, has_ca=True)
    assert found.certified("office") == ClientRights(frozenset({"web"}))
    assert found.certified("anybody") == found.certified("") == found.certified("*") == ClientRights(frozenset())
    path.write_text("office:\n")
    assert read_authorized_clients(path, has_ca=True).certified("home") is None
    with pytest.raises(ConfigError, match="line 1: 'office': has no fingerprint; write what 'rtunnel id' prints there"):
        read_authorized_clients(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- x", "is not a mapping; write lines such as 'laptop: {fingerprint: ..., services: [web]}'"),
        ("x: 1", "line 1: 'x': is a single value and not a mapping"),
        ("1: {}", "line 1: 1 is not a name"),
        ("x: {fingerprnt: y}", "line 1: 'x': unknown key 'fingerprnt'; did you mean 'fingerprint'?"),
        ("x:\n  fingerprint: y!", "line 2: 'x': key 'fingerprint': 'y!' is not a fingerprint"),
        ("x:\n  fingerprint:", "line 2: 'x': key 'fingerprint' has no value; write one, or leave the key out"),
        # Without a value it would be a right to all services.
        (f"x:\n  fingerprint: {ONE}\n  services:", "line 3: 'x': key 'services' has no value"),
        (f"x:\n  fingerprint: {ONE}\n  until:", "line 3: 'x': key 'until' has no value"),
        (f"'*': {{fingerprint: {ONE}}}", "line 1: '*': key 'fingerprint': '*' stands for every client"),
        (
            f"x: {{fingerprint: {ONE}}}\ny: {{fingerprint: {SHORT}}}",
            "line 2: 'y': has the fingerprint of 'x'; keep one of the two",
        ),
        (f"x:\n fingerprint: {ONE}\n streams: 0", "line 3: 'x': key 'streams': 0 is out of range"),
        (f"x:\n fingerprint: {ONE}\n bandwidth: fast", "line 3: 'x': key 'bandwidth': 'fast' is not a bandwidth"),
        (f"x:\n fingerprint: {ONE}\n until: soon", "line 3: 'x': key 'until': 'soon' is not a day or a time; write "),
        (
            f"x:\n fingerprint: {ONE}\n until: 2027-01-01T10:00",
            "line 3: 'x': key 'until': '2027-01-01T10:00' has no time zone; write 2027-01-01T10:00Z for UTC",
        ),
        (f"x:\n fingerprint: {ONE}\n until: 9999-12-31", "line 3: 'x': key 'until': '9999-12-31' is too late"),
        (f"x:\n fingerprint: {ONE}\n services: [[]]", "line 3: 'x': key 'services': [] is not text"),
        (
            f"x:\n fingerprint: {ONE}\n services:\n  web:\n   rate: 1",
            "line 5: 'x': key 'services': 'web': unknown key 'rate'",
        ),
        (f"x: &a {{fingerprint: {ONE}}}\ny: *a", "line 2: '*a' repeats another part of the file"),
        (f"x: {{fingerprint: {ONE}}}\nx: {{fingerprint: {OTHER}}}", "line 2: key 'x' occurs twice; keep one"),
        (f"x: {{fingerprint: !!python/name:os.system '{ONE}'}}", "line 1: "),
        (
            f"x: {{fingerprint: {ONE}, services: [{', '.join(f's{number}' for number in range(1001))}]}}",
            "line 1: 'x': key 'services': has 1,001 services, and 1,000 is the most",
        ),
    ],
)
def test_mistakes(path: Path, content: str, message: str) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_authorized_clients(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_clients_are_added(path: Path) -> None:
    path.write_text(f"# mine\nlaptop: {{fingerprint: {OTHER}}}  # the old one")
    add_client(path, ONE, "laptop", ["web", ""])
    add_client(path, ONE, "again", ["dns"])
    add_client(path, THIRD, "*", None)
    assert path.read_text() == (
        f"# mine\nlaptop: {{fingerprint: {OTHER}}}  # the old one\n"
        f'"laptop-2":\n  fingerprint: {SHORT}\n  services: ["web", "(default)"]\n'
        f'"*-2":\n  fingerprint: {show_fingerprint(THIRD)}\n'
    )
    found = read_authorized_clients(path)
    assert found.known(ONE) == ("laptop-2", ClientRights(frozenset({"web", ""})))
    assert found.known(THIRD) == ("*-2", EVERYTHING)


def test_a_new_file_is_commented(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    add_client(path, ONE, "x\ny: {}" + 1000 * "z", ["a, b", "]"])
    assert path.read_text().startswith("# Clients of the WebRTC tunnel that may use this host")
    known = read_authorized_clients(path).known(ONE)
    assert known == ("x?y: {}" + 57 * "z", ClientRights(frozenset({"a, b", "]"})))


class TestRights:
    def test_everything(self) -> None:
        assert EVERYTHING.why_not("web", 10**6, 10**6) == (Code.UNAUTHORIZED, "")
        assert EVERYTHING.may_keep("web")

    def test_services(self) -> None:
        rights = ClientRights(frozenset({"web"}))
        assert rights.why_not("web", 0, 0)[1] == ""
        assert rights.why_not("", 0, 0) == (Code.UNAUTHORIZED, "this client may not use the service (default)")
        assert rights.may_keep("web")
        assert not rights.may_keep("dns")

    def test_streams(self) -> None:
        rights = ClientRights(streams=3, of_service={"web": ServiceRights(streams=2)})
        assert rights.why_not("web", 2, 1)[1] == ""
        assert rights.why_not("web", 2, 2) == (
            Code.LIMIT,
            "this client may have 2 connections at once to the service web",
        )
        assert rights.why_not("dns", 3, 0) == (Code.LIMIT, "this client may have 3 connections at once")

    def test_until(self) -> None:
        rights = ClientRights(of_service={"web": ServiceRights(until=NOW)}, until=NOW + timedelta(hours=1))
        before, after = NOW - timedelta(seconds=1), NOW + timedelta(hours=1)
        assert rights.why_not("web", 0, 0, before)[1] == ""
        assert rights.why_not("web", 0, 0, NOW)[1] == (
            "the rights of this client with the service web ended at 2026-11-30 12:00 UTC"
        )
        assert rights.why_not("dns", 0, 0, NOW)[1] == ""
        assert rights.why_not("dns", 0, 0, after)[1] == "the rights of this client ended at 2026-11-30 13:00 UTC"
        assert rights.may_keep("web", before)
        assert not rights.may_keep("web", NOW)
        assert rights.may_keep("dns", NOW)
        assert not rights.may_keep("dns", after)
