"""What Prometheus reads, made of what the services say about themselves."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rtunnel.control.metrics import MOST_LABEL, MOST_SERIES, render
from rtunnel.control.rtc.parts import totals
from rtunnel.rtc.traffic import History, Traffic

COMMON: dict[str, Any] = {
    "version": 1,
    "service": "rtunnel-server",
    "release": "1.2.3",
    "pid": 1,
    "up_seconds": 5.0,
    "ok": True,
    "ready": True,
    "problems": [],
    "warnings_total": {"warn": 3, "error": 0, "critical": 0},
    "warnings": [],
}
TRAFFIC = {"from_visitors": 500, "to_visitors": 70_000, "from_visitors_rate": 1.5, "to_visitors_rate": 2.5}
CARRIED = {"visitors_total": 4, "traffic": TRAFFIC}
ENDS = {
    "visitors": 2,
    "visitors_total": 9,
    "traffic": TRAFFIC,
    "visits": {
        "link": {
            "ended": {"done": 2, "reset": 1},
            "seconds": {"0.1": 1, "1.0": 0, "longer": 2},
            "seconds_sum": 20.5,
        }
    },
    "descriptors": {"held": 2, "limit": 1024},
    "memory": {"held_at_most": 5000, "limit": 10**9},
}
TLS = {
    "group": "g",
    "signature": "s",
    "certificate": "laptop",
    "fingerprint": "f",
    "expires": "2030-01-01T00:00:00+00:00",
}


def tunnel(place: str, *, published: bool = True, ready: bool = True, visitors: int = 1) -> dict[str, Any]:
    state = {"published": published, "ready": ready, "visitors": visitors}
    return {"place": place, "service": "x", "group": None, **state, **CARRIED}


def client(name: str, *tunnels: dict[str, Any], address: str = "192.0.2.7:1") -> dict[str, Any]:
    return {
        "name": name,
        "address": address,
        "visitors": 2,
        "round_trip_ms": 12.5,
        "tls": TLS,
        "tunnels": list(tunnels),
    }


def values(status: dict[str, Any]) -> dict[str, float]:
    """The samples by what they are called with their labels, those of the process left out."""
    text = render(status).decode()
    if shutil.which("promtool"):
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stdout.decode() + checked.stderr.decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            key = sample.name + (f"{{{labels}}}" if labels else "")
            assert key not in found
            found[key] = sample.value
    return {key: value for key, value in found.items() if key.startswith("rtunnel_")}


@pytest.mark.process
def test_a_server() -> None:
    clients = [
        client("laptop", tunnel("port 80", visitors=2), tunnel("port 81", published=False)),
        client("laptop", tunnel("port 80", ready=False, visitors=3), address="192.0.2.8:1"),
    ]
    clients[0]["tunnels"][1]["statuses"] = {"2xx": 3, "5xx": 1}
    found = values({**COMMON, **ENDS, "clients": clients, "refused": {"address": 6}})
    assert found["rtunnel_ok"] == found["rtunnel_ready"] == 1
    assert found["rtunnel_log_lines_total{level=warn}"] == 3
    assert (found["rtunnel_clients"], found["rtunnel_tunnels"]) == (2, 3)
    assert (found["rtunnel_visitors"], found["rtunnel_visitors_started_total"]) == (2, 9)
    assert found["rtunnel_client_round_trip_seconds{address=192.0.2.7:1,client=laptop}"] == 0.0125
    # Two links of one client are one time series.
    assert found["rtunnel_tunnel_visitors{client=laptop,tunnel=port 80}"] == 5
    assert found["rtunnel_tunnel_ready{client=laptop,tunnel=port 80}"] == 1
    assert found["rtunnel_tunnel_published{client=laptop,tunnel=port 81}"] == 0
    assert found["rtunnel_certificate_expiry_timestamp_seconds{peer=192.0.2.7:1}"] == 1893456000
    assert found["rtunnel_memory_limit_bytes"] == 10**9
    assert found["rtunnel_visitors_refused_total{rule=address}"] == 6
    # The same of two links is counted once.
    assert found["rtunnel_tunnel_visitors_started_total{client=laptop,tunnel=port 80}"] == 4
    assert found["rtunnel_tunnel_bytes_total{client=laptop,direction=to_visitors,tunnel=port 80}"] == 70_000
    assert found["rtunnel_tunnel_bytes_total{client=laptop,direction=from_visitors,tunnel=port 81}"] == 500
    assert found["rtunnel_tunnel_requests_total{client=laptop,status=5xx,tunnel=port 81}"] == 1
    assert found["rtunnel_bytes_total{direction=from_visitors}"] == 500
    assert found["rtunnel_visits_ended_total{carrier=link,reason=reset}"] == 1
    buckets = [found[f"rtunnel_visit_seconds_bucket{{carrier=link,le={bound}}}"] for bound in ("0.1", "1.0", "+Inf")]
    assert buckets == [1, 1, 3]
    assert found["rtunnel_visit_seconds_count{carrier=link}"] == 3
    assert found["rtunnel_visit_seconds_sum{carrier=link}"] == 20.5


@pytest.mark.process
def test_a_client() -> None:
    of_settings = {"name": "web", "service": "127.0.0.1:80", "published": True, "answers": False, **CARRIED}
    unknown = {"name": "game", "service": "127.0.0.1:81", "published": False, "answers": None, **CARRIED}
    status = {**COMMON, **ENDS, "server": "s:7000", "tls": None, "tunnels": [of_settings, unknown]}
    found = values({**status, "connected_seconds": 7.5, "round_trip_ms": 3.0})
    assert (found["rtunnel_link_up"], found["rtunnel_link_seconds"]) == (1, 7.5)
    assert found["rtunnel_link_round_trip_seconds"] == 0.003
    assert found["rtunnel_tunnel_published{tunnel=game}"] == 0
    assert found["rtunnel_tunnel_bytes_total{direction=to_visitors,tunnel=web}"] == 70_000
    assert found["rtunnel_service_answers{service=127.0.0.1:80}"] == 0
    assert "rtunnel_service_answers{service=127.0.0.1:81}" not in found
    assert values({**status, "connected_seconds": None, "round_trip_ms": None})["rtunnel_link_up"] == 0


@pytest.mark.process
def test_the_webrtc_tunnel() -> None:
    found = values({**COMMON, "connections": 3, "hosts": 1, "clients": 2})
    assert (found["rtunnel_connections"], found["rtunnel_hosts"], found["rtunnel_clients"]) == (3, 1, 2)
    peers = [
        {"path": "direct, a to b", "connected": True, "streams": 2, "round_trip_ms": 10.0},
        {"path": "relayed, c to d", "connected": True, "streams": 1, "round_trip_ms": 40.0},
        {"path": None, "connected": False, "streams": 0, "round_trip_ms": None},
    ]
    host = History()
    host.connected["relayed"] += 3
    host.failed["path"] += 2
    host.gone, host.datagrams_dropped = Traffic(10, 20, 3, 1, 5, 2), 7
    all_peers = {"peer_totals": totals(host, [])}
    services = [{"name": "", "service": "127.0.0.1:80", "answers": True, **CARRIED}]
    found = values({**COMMON, **ENDS, "signaling": {"up": False}, "services": services, "peers": peers, **all_peers})
    assert found["rtunnel_signaling_up"] == 0
    assert [found[f"rtunnel_peers{{path={path}}}"] for path in ("direct", "relayed", "connecting")] == [1, 1, 1]
    assert found["rtunnel_peer_streams"] == 3
    assert found["rtunnel_service_bytes_total{direction=from_visitors,service=(default)}"] == 500
    assert found["rtunnel_peer_round_trip_seconds_max"] == 0.04
    assert found["rtunnel_peer_round_trip_seconds_avg"] == 0.025
    assert {key.removeprefix("rtunnel_peer_"): value for key, value in found.items() if "_total" in key}.items() >= {
        "connections_total{path=direct}": 0,
        "connections_total{path=relayed}": 3,
        "failures_total{reason=path}": 2,
        "failures_total{reason=signaling}": 0,
        "sent_bytes_total": 10,
        "received_bytes_total": 20,
        "sent_packets_total": 3,
        "lost_packets_total": 1,
        "received_packets_total": 5,
        "missed_packets_total": 2,
        "dropped_datagrams_total": 7,
    }.items()
    forwards = [{"local": "127.0.0.1:1", "service": "ssh", **CARRIED}]
    client = {"signaling": {"up": True}, "peer": peers[2], "waiting": 4, "forwards": forwards, **all_peers}
    found = values({**COMMON, **ENDS, **client})
    assert (found["rtunnel_peers{path=connecting}"], found["rtunnel_waiting"]) == (1, 4)
    assert not [key for key in found if key.startswith("rtunnel_peer_round_trip")]
    assert found["rtunnel_peer_sent_bytes_total"] == 10
    assert found["rtunnel_service_visitors_started_total{service=ssh}"] == 4


@pytest.mark.process
def test_names_that_strangers_choose() -> None:
    hostile = 'x"} 1\nrtunnel_ok 0\n# \\'
    found = values({**COMMON, **ENDS, "clients": [client(hostile, tunnel("y" * 1000))]})
    assert found["rtunnel_ok"] == 1
    assert any(hostile in key for key in found)
    assert f"tunnel={'y' * MOST_LABEL}}}" in next(key for key in found if key.startswith("rtunnel_tunnel_ready"))


@pytest.mark.process
def test_time_series_are_bounded() -> None:
    many = [client(f"c{n}", tunnel(f"port {n}"), address=f"a{n}") for n in range(2 * MOST_SERIES)]
    found = values({**COMMON, **ENDS, "clients": many})
    assert (found["rtunnel_clients"], found["rtunnel_tunnels"]) == (2 * MOST_SERIES, 2 * MOST_SERIES)
    for name in (
        "client_visitors",
        "tunnel_ready",
        "tunnel_visitors_started_total",
        "certificate_expiry_timestamp_seconds",
    ):
        assert sum(key.startswith(f"rtunnel_{name}{{") for key in found) == MOST_SERIES
