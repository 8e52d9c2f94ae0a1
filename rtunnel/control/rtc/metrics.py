"""The metrics of peer connections.

A peer has a name that it chose by chance, so none has time series of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_TOTALS = {
    "bytes_sent": ("sent_bytes", "Bytes of messages that were sent to peers"),
    "bytes_received": ("received_bytes", "Bytes of messages that came from peers"),
    "packets_sent": ("sent_packets", "Packets with data that were sent to peers, each counted once"),
    "packets_lost": ("lost_packets", "Those of them that were sent again or given up"),
    "packets_received": ("received_packets", "Packets with new data that came from peers"),
    "packets_missed": ("missed_packets", "Packets that had not come when a later one did"),
    "datagrams_dropped": ("dropped_datagrams", "Datagrams of UDP that came faster than they could be sent"),
}


def peer_metrics(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield those of ``rtc-host`` or ``rtc-client``."""
    peers: list[Mapping[str, Any]] = [*status.get("peers", []), *([status["peer"]] if status.get("peer") else [])]
    now = GaugeMetricFamily("rtunnel_peers", "Peer connections", labels=["path"])
    paths = [(peer["path"] or "connecting").partition(",")[0] for peer in peers]
    for path in ("direct", "relayed", "connecting"):
        now.add_metric([path], paths.count(path))
    yield now
    yield GaugeMetricFamily("rtunnel_peer_streams", "Streams of all peers", sum(peer["streams"] for peer in peers))
    trips = [peer["round_trip_ms"] / 1000 for peer in peers if peer["round_trip_ms"] is not None]
    if trips:
        yield GaugeMetricFamily("rtunnel_peer_round_trip_seconds_max", "The longest of the peers", max(trips))
        yield GaugeMetricFamily("rtunnel_peer_round_trip_seconds_avg", "The mean of the peers", sum(trips) / len(trips))
    totals = status["peer_totals"]
    for key, label, name, text in (
        ("connected", "path", "rtunnel_peer_connections", "Peers that were connected"),
        ("failed", "reason", "rtunnel_peer_failures", "Attempts to connect to a peer that came to nothing"),
    ):
        family = CounterMetricFamily(name, text, labels=[label])
        for value, count in totals[key].items():
            family.add_metric([value], count)
        yield family
    for key, (name, text) in _TOTALS.items():
        yield CounterMetricFamily(f"rtunnel_peer_{name}", text, totals[key])
