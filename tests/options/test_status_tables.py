"""What ``rtunnel status`` prints: hostile names, very many tunnels, and peers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rtunnel.options.status.tables import show, size

HOSTILE = [
    "\x1b[2J\x1b]0;mine\x07",
    "[bold red]all is well[/]",
    ":warning:",
    "two\nlines\r",
    "\u202etxt.exe\u2066",
    "\x9b31m",
    "x" * 5000,
]
TRAFFIC = {"from_visitors": 5, "to_visitors": 2_500_000, "from_visitors_rate": 0.0, "to_visitors_rate": 2000.0}


def process(service: str, **more: Any) -> dict[str, Any]:
    found = {
        "service": service,
        "pid": 1,
        "up_seconds": 5.0,
        "release": "1",
        "ok": True,
        "problems": [],
        "warnings": [],
    }
    return {**found, **more}


def tunnel(place: str, service: str = "127.0.0.1:80", group: str | None = None) -> dict[str, Any]:
    states = {"published": True, "ready": True, "visitors": 3, "visitors_total": 7, "traffic": TRAFFIC}
    return {"place": place, "service": service, "group": group, **states}


def client(name: str, *tunnels: dict[str, Any]) -> dict[str, Any]:
    own = {"name": name, "address": name, "connected_seconds": 5.0, "round_trip_ms": 1.5, "tls": None, "visitors": 3}
    return {**own, "tunnels": list(tunnels)}


def server(*clients: dict[str, Any], **more: Any) -> dict[str, Any]:
    return process("rtunnel-server", clients=list(clients), refusals=[], **more)


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is printed about processes, in a terminal of some width."""

    def of(*found: dict[str, Any], columns: int = 200) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        show(found)
        return capsys.readouterr().out

    return of


@pytest.mark.parametrize("name", HOSTILE)
def test_a_terminal_obeys_no_name(shown: Any, name: str) -> None:
    """Nor does rich take one for markup or an emoji, and nothing is hidden behind a line that a name has begun."""
    refusal = {"at": 0.0, "address": name, "place": name, "why": name}
    node = {"node": name, "address": name, "why": name, "round_trip_ms": None, "tunnels": 0, "visitors": 0}
    warning = {"at": 0.0, "level": "warn", "text": name}
    found = server(client(name, tunnel(name, name, name)), problems=[name], warnings=[warning], listening={name: name})
    found |= {"refusals": [refusal], "nodes": [node]}
    for columns in (200, 40):
        out = shown(found, columns=columns)
        assert not [one for one in out if not one.isprintable() and one != "\n"]
        assert out.startswith("rtunnel-server  pid 1, ")
    if len(name) < 100:
        seen = "".join(one if one.isprintable() else "?" for one in name)
        assert shown(found, columns=500).count(seen) >= 13


def test_a_thousand_tunnels(shown: Any) -> None:
    clients = [
        client(f"c{number}", *(tunnel(f"port {100 * number + one}") for one in range(10))) for number in range(100)
    ]
    began = time.perf_counter()
    out = shown(server(*clients))
    took = time.perf_counter() - began
    print(f"{took:.2f} s")
    assert all(f"port {100 * number + one} " in out for number in range(100) for one in range(10))
    assert took < 20


def test_nodes(shown: Any) -> None:
    up = {"node": "9f2c", "address": "a:7000", "why": "", "round_trip_ms": 0.4, "tunnels": 12, "visitors": 3}
    down = {"node": "4be8", "address": "b:7000", "why": "connection refused", "round_trip_ms": None}
    out = shown(server(nodes=[up, down | {"tunnels": 0, "visitors": 0}]))
    lines = [line.split() for line in out.splitlines()]
    assert ["9f2c", "a:7000", "up", "0.4", "ms", "12", "3"] in lines
    assert ["4be8", "b:7000", "down:", "connection", "refused", "0", "0"] in lines
    # Of a release that did not say how many tunnels there are.
    assert "9f2c" in shown(server(nodes=[down | {"node": "9f2c", "visitors": 0}]))
    assert "nodes 2" in shown(process("rtc-signal", nodes=2))
    assert "Node" not in shown(server(nodes=[]))


@pytest.mark.parametrize(
    ("closed", "text"), [(True, "closed"), (False, "open: it trusts whoever the signaling server shows it")]
)
def test_identity(shown: Any, closed: bool, text: str) -> None:
    out = " ".join(shown(process("rtc-host", identity={"fingerprint": "aaaaa-bbbbb", "closed": closed})).split())
    assert f"fingerprint aaaaa-bbbbb ({text})" in out


def test_an_identity_with_a_second_key(shown: Any) -> None:
    identity = {"fingerprint": "aaaaa-bbbbb", "signature": "ML-DSA-65 + MAYO-5", "closed": True}
    out = " ".join(shown(process("rtc-host", identity=identity)).split())
    assert "fingerprint aaaaa-bbbbb, ML-DSA-65 + MAYO-5 (closed)" in out
    plain = " ".join(shown(process("rtc-host", identity=identity | {"signature": "ML-DSA-65"})).split())
    assert "fingerprint aaaaa-bbbbb (closed)" in plain


def test_invitations(shown: Any) -> None:
    web = {"number": 7, "services": ["web"], "for": "Anna", "stage": "waiting", "spent": False, "client": None}
    used = {"number": 8, "services": None, "for": None, "stage": "used", "spent": True, "client": "invited-abcde"}
    out = shown(process("rtc-host", invitations=[web | {"until": "2030-01-02T03:04:05+00:00"}, used | {"until": None}]))
    lines = [line.split() for line in out.splitlines()]
    assert ["7", "Anna", "web", "waiting", "not", "spent", "2030-01-02T03:04:05+00:00"] in lines
    assert ["8", "invited-abcde", "all", "used", "spent"] in lines


def test_peers(shown: Any) -> None:
    peer = {
        "id": "a",
        "connected": True,
        "path": "relayed, x to y",
        "round_trip_ms": 12.5,
        "streams": 4,
        "bytes_sent": 2_500_000,
        "bytes_received": 900,
        "lost_lately": 0.0123,
        "missed_lately": None,
        "datagrams_dropped": 6,
        "sealed": {"group": "X25519MLKEM768", "signature": "ML-DSA-65", "name": "laptop"},
    }
    unknown = {
        **peer,
        "id": "b",
        "connected": False,
        "path": None,
        "round_trip_ms": None,
        "lost_lately": 0.0,
        "sealed": None,
    }
    plain = {**peer, "id": "c", "sealed": None, "path": "direct"}
    may = {"services": ["web", "dns"], "streams": 7, "bytes_per_second": 1, "until": "2030-01-01T00:00:00+00:00"}
    use = {"service": "web", "streams": 2, "streams_total": 9, "from_client": 1024, "to_client": 2048}
    laptop = {**peer, "client": "laptop", "may": may, "uses": [use, {**use, "service": "dns"}]}
    out = shown(process("rtc-host", peers=[peer, unknown, plain]))
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "a X25519MLKEM768, ML-DSA-65, laptop relayed, x to y 12.5 ms 2.38 MiB, 1.2% lost 900 bytes 4 6" in rows
    assert "b connecting 2.38 MiB 900 bytes 4 6" in rows
    hedged = {**peer, "sealed": {**peer["sealed"], "hedge": ["FrodoKEM-1344-AES"]}}  # type: ignore[dict-item]
    out = " ".join(shown(process("rtc-client", peer=hedged)).split())
    assert "X25519MLKEM768 + FrodoKEM-1344-AES, ML-DSA-65, laptop" in out
    assert "c no direct 12.5 ms 2.38 MiB, 1.2% lost 900 bytes 4 6" in rows
    rows = [" ".join(line.split()) for line in shown(process("rtc-host", peers=[laptop, laptop])).splitlines()]
    used = "2 9 1 KiB 2 KiB web, dns 2030-01-01T00:00:00+00:00"
    assert [row for row in rows if row.startswith("laptop")] == [f"laptop web {used}", f"laptop dns {used}"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "0.977 KiB"),
        (1_023_500, "0.976 MiB"),
        (1023.6 * 1024, "1 MiB"),
        (2**50, "1,024 TiB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text
