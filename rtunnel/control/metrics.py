"""The status of a service as Prometheus reads it (docs/control.rst, "Metrics").

The values are those of ``GET /v1/status``, taken when somebody asks.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from rtunnel.control.rtc.metrics import peer_metrics
from rtunnel.traffic.accounts import DEFAULT

#: Clients, and tunnels, that have time series of their own. The others are only in the sums.
MOST_SERIES = 1000
#: The longest value of a label, in characters.
MOST_LABEL = 100


def render(status: Mapping[str, Any]) -> bytes:
    """Return the metrics in Prometheus' text format.

    :param status: what ``GET /v1/status`` answers.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Status(status))
    return generate_latest(registry)


class _Status(Collector):
    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        status = self._status
        yield InfoMetricFamily(
            "rtunnel_build",
            "The version of rtunnel, and of what it runs on",
            {"service": status["service"], "release": status["release"], "python": platform.python_version()},
        )
        yield _gauge("rtunnel_ok", "Whether all is well", status["ok"])
        yield _gauge("rtunnel_ready", "Whether it takes visitors", status["ready"])
        yield _gauge("rtunnel_problems", "How much is wrong", len(status["problems"]))
        lines = CounterMetricFamily("rtunnel_log_lines", "Lines of the log from level warn", labels=["level"])
        for level, count in status["warnings_total"].items():
            lines.add_metric([level], count)
        yield lines
        for key, text in (
            ("visitors", "Connections that are relayed now"),
            ("waiting", "Local connections that wait for the host"),
            ("connections", "Connections to the signaling server"),
            ("hosts", "Hosts that are registered"),
            ("nodes", "Nodes of the cluster, this one included"),
        ):
            if isinstance(status.get(key), int):
                yield _gauge(f"rtunnel_{key}", text, status[key])
        if "traffic" in status:
            started = status["visitors_total"]
            yield CounterMetricFamily("rtunnel_visitors_started", "Visitors and requests that there were", started)
            yield _bytes("rtunnel_bytes", [((), status["traffic"])])
            yield from _visits(status["visits"])
        for key, unit in (("descriptors", ""), ("memory", "_bytes")):
            for name, value in status.get(key, {}).items():
                text = f"{key.capitalize()}: {name.replace('_', ' ')}"
                yield _gauge(f"rtunnel_{key}_{name}{unit}", text, value)
        if "refused" in status:
            refused = CounterMetricFamily("rtunnel_visitors_refused", "Visitors who were refused", labels=["rule"])
            for rule, times in status["refused"].items():
                refused.add_metric([rule], times)
            yield refused
        if isinstance(status.get("clients"), list):
            yield from _server(status["clients"])
        elif isinstance(status.get("clients"), int):
            yield _gauge("rtunnel_clients", "Clients that are registered", status["clients"])
        if "server" in status:
            yield from _client(status)
        if "signaling" in status:
            yield _gauge("rtunnel_signaling_up", "Whether signaling is up", status["signaling"]["up"])
            yield from peer_metrics(status)
        for key, name in (("services", "name"), ("forwards", "service")):
            if key in status:
                found = (((each[name] or DEFAULT,), each) for each in status[key])
                yield from _carried("service", ("service",), found)
        if "services" in status:
            yield _answers(status["services"])


def _server(clients: list[dict[str, Any]]) -> Iterator[Metric]:
    yield _gauge("rtunnel_clients", "Clients that are connected", len(clients))
    yield _gauge("rtunnel_tunnels", "Tunnels of all clients", sum(len(client["tunnels"]) for client in clients))
    served = _family("rtunnel_client_visitors", "Visitors of a client now", "client", "address")
    trip = _family("rtunnel_client_round_trip_seconds", "The shortest round trip seen", "client", "address")
    for client in clients[:MOST_SERIES]:
        labels = _labels(client["name"], client["address"])
        served.add_metric(labels, client["visitors"])
        if client["round_trip_ms"] is not None:
            trip.add_metric(labels, client["round_trip_ms"] / 1000)
    yield served
    yield trip
    yield _expiry((client["address"], client["tls"]) for client in clients[:MOST_SERIES])
    yield from _carried(
        "tunnel",
        ("client", "tunnel"),
        (((client["name"], tunnel["place"]), tunnel) for client in clients for tunnel in client["tunnels"]),
    )
    states = (
        ("published", _family("rtunnel_tunnel_published", "Whether visitors can come", "client", "tunnel")),
        (
            "ready",
            _family("rtunnel_tunnel_ready", "Whether its service answers", "client", "tunnel"),
        ),
        ("visitors", _family("rtunnel_tunnel_visitors", "Visitors of a tunnel now", "client", "tunnel")),
    )
    # Several links of one client may have the same tunnel.
    sums: dict[tuple[str, ...], dict[str, int]] = {}
    for client in clients:
        for tunnel in client["tunnels"]:
            labels = _labels(client["name"], tunnel["place"])
            if tuple(labels) not in sums and len(sums) >= MOST_SERIES:
                continue
            found = sums.setdefault(tuple(labels), {"published": 0, "ready": 0, "visitors": 0})
            found["published"] |= tunnel["published"]
            found["ready"] |= tunnel["ready"]
            found["visitors"] += tunnel["visitors"]
    for key, family in states:
        for names, found in sums.items():
            family.add_metric(names, found[key])
        yield family


def _visits(visits: Mapping[str, Any]) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "rtunnel_visits_ended", "Visits and requests that are over", labels=["carrier", "reason"]
    )
    lasted = HistogramMetricFamily("rtunnel_visit_seconds", "How long they have lasted", labels=["carrier"])
    for carrier, found in visits.items():
        for reason, count in found["ended"].items():
            ended.add_metric([carrier, reason], count)
        total = 0
        buckets = []
        for bound, count in found["seconds"].items():
            total += count
            buckets.append(("+Inf" if bound == "longer" else bound, total))
        lasted.add_metric([carrier], buckets, found["seconds_sum"])
    yield ended
    yield lasted


def _bytes(name: str, carried: Iterable[tuple[tuple[str, ...], Mapping[str, Any]]], *labels: str) -> Metric:
    family = CounterMetricFamily(name, "Bytes that were carried", labels=[*labels, "direction"])
    for values, traffic in carried:
        for direction in ("from_visitors", "to_visitors"):
            family.add_metric([*values, direction], traffic[direction])
    return family


def _carried(
    what: str, names: tuple[str, ...], found: Iterable[tuple[tuple[str, ...], Mapping[str, Any]]]
) -> Iterator[Metric]:
    """Yield what tunnels or services have carried. Several links of one client, and several forwards to one service,
    share their counts."""
    kept: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for values, each in found:
        if len(kept) >= MOST_SERIES:
            break
        kept.setdefault(tuple(_labels(*values)), each)
    visitors = CounterMetricFamily(
        f"rtunnel_{what}_visitors_started", "Visitors, and with HTTP by Host requests", labels=names
    )
    answered = CounterMetricFamily(
        f"rtunnel_{what}_requests", "Requests by the class of their answer", labels=[*names, "status"]
    )
    for values, each in kept.items():
        visitors.add_metric(values, each["visitors_total"])
        for status, count in each.get("statuses", {}).items():
            answered.add_metric([*values, status], count)
    yield visitors
    yield answered
    yield _bytes(f"rtunnel_{what}_bytes", [(values, each["traffic"]) for values, each in kept.items()], *names)


def _client(status: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("rtunnel_link_up", "Whether the client is connected", status["connected_seconds"] is not None)
    if status["connected_seconds"] is not None:
        yield _gauge("rtunnel_link_seconds", "How long the link has lasted", status["connected_seconds"])
    if status["round_trip_ms"] is not None:
        yield _gauge("rtunnel_link_round_trip_seconds", "The shortest round trip seen", status["round_trip_ms"] / 1000)
    links = status.get("links", [status])
    up = sum(link["connected_seconds"] is not None for link in links)
    yield _gauge("rtunnel_links_up", "How many links the client has", up)
    yield _expiry([(link["server"], link["tls"]) for link in links])
    published = _family("rtunnel_tunnel_published", "Whether visitors can come", "tunnel")
    for tunnel in status["tunnels"][:MOST_SERIES]:
        published.add_metric(_labels(tunnel["name"]), tunnel["published"])
    yield published
    yield from _carried("tunnel", ("tunnel",), (((tunnel["name"],), tunnel) for tunnel in status["tunnels"]))
    yield _answers(status["tunnels"])


def _expiry(peers: Iterable[tuple[str, Mapping[str, str] | None]]) -> Metric:
    family = _family("rtunnel_certificate_expiry_timestamp_seconds", "When the certificate of a peer expires", "peer")
    for address, tls in peers:
        if tls is not None:
            family.add_metric(_labels(address), datetime.fromisoformat(tls["expires"]).timestamp())
    return family


def _answers(services: Iterable[Mapping[str, Any]]) -> Metric:
    answers = _family("rtunnel_service_answers", "Whether a local service answers; absent: unknown", "service")
    seen: dict[str, int] = {}
    for each in services:
        if each["answers"] is not None and len(seen) < MOST_SERIES:
            seen[_labels(each["service"])[0]] = int(each["answers"])
    for name, value in seen.items():
        answers.add_metric([name], value)
    return answers


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _labels(*values: str) -> list[str]:
    return [value[:MOST_LABEL] for value in values]
