"""The status port, and a real Prometheus that reads it, with our alerts and the queries of our dashboard."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, need, poll, wait_until_open
from tests.process.services import LOOPBACK, Service, Tunnel, fetch, page

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]

ROOT = Path(__file__).parent.parent.parent
ALERTS = ROOT / "etc" / "prometheus" / "rtunnel-alerts.yaml"
DASHBOARD = ROOT / "etc" / "grafana" / "rtunnel.json"


def get(port: int, path: str, **fields: str) -> tuple[int, str]:
    """Status and body of the answer of a status port."""
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}{path}", headers=fields)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Prometheus:
    """A Prometheus that reads these ports every second.

    :param ports: those of the processes.
    :param how: more of the scrape configuration.
    """

    def __init__(self, twistd: Twistds, directory: Path, ports: list[int], **how: Any) -> None:
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {
                    "job_name": "rtunnel",
                    "static_configs": [{"targets": [f"{LOOPBACK}:{port}" for port in ports]}],
                    **how,
                }
            ],
        }
        path = directory / "prometheus.json"
        path.write_text(json.dumps(config))
        options = [f"--config.file={path}", f"--storage.tsdb.path={directory / 'data'}"]
        twistd.program(need("prometheus"), *options, f"--web.listen-address={LOOPBACK}:{self.port}")
        wait_until_open(self.port)

    def query(self, query: str) -> list[dict[str, Any]]:
        """The result of a query, which must be one."""
        status, body = get(self.port, f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        if status == 503:
            return []  # it still starts
        found = json.loads(body)
        assert found["status"] == "success", found
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def wait_for(self, query: str, value: float) -> None:
        """Wait until a query has this value."""
        found = partial(self.query, query)
        poll(lambda: [float(each["value"][1]) for each in found()] == [value], PATIENCE, f"{query} == {value}")


def test_prometheus_reads_both_ends(serve: Serve, start_tunnel: StartTunnel, twistd: Twistds, tmp_path: Path) -> None:
    service = serve(GET=page("here"))
    ports = [free_port(), free_port()]
    server, client = ([f"--status-listen={LOOPBACK}:{port}"] for port in ports)
    tunnel = start_tunnel(service.address, server=server, client=client)
    for port in ports:
        wait_until_open(port)
    prometheus = Prometheus(twistd, tmp_path, ports)
    assert fetch(tunnel.public) == "here"
    prometheus.wait_for("sum(up)", 2)
    prometheus.wait_for("rtunnel_clients", 1)
    prometheus.wait_for(f'rtunnel_tunnel_published{{tunnel="port {tunnel.public}", client=~".+"}}', 1)
    prometheus.wait_for(f'rtunnel_service_answers{{service="{service.address}"}}', 1)
    prometheus.wait_for("sum(rtunnel_ok)", 2)
    prometheus.wait_for(f'rtunnel_visitors_started_total{{instance="{LOOPBACK}:{ports[0]}"}}', 1)
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
            prometheus.query(query)
            # It asks for nothing that there is not, but for what the WebRTC tunnel has.
            for name in re.findall(r"\b(?:rtunnel|process)_\w+", query):
                if name.startswith(("rtunnel_peer", "rtunnel_service_bytes")):
                    continue
                poll(partial(prometheus.query, name), PATIENCE, f"{name}, for '{panel['title']}'")
    _, rules = get(prometheus.port, "/api/v1/rules")
    assert len(json.loads(rules)["data"]["groups"][0]["rules"]) >= 9
    tunnel.client.kill()
    prometheus.wait_for("sum(up)", 1)
    prometheus.wait_for("rtunnel_clients", 0)


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    path = tmp_path / "tests.yaml"
    cases = {
        "RtunnelGone": ('up{job="rtunnel", instance="a"}', "0x10", "5m"),
        "RtunnelLinkDown": ('rtunnel_link_up{instance="a"}', "1 0x10", "5m"),
        "RtunnelLinkFlaps": ('rtunnel_link_up{instance="a"}', "1 0 1 0 1 0 1 0 1 0", "9m"),
        "RtunnelTunnelNotPublished": ('rtunnel_tunnel_published{instance="a", tunnel="t"}', "0x10", "5m"),
        "RtunnelServiceDown": ('rtunnel_service_answers{instance="a", service="s"}', "0x10", "5m"),
        "RtunnelAnswersFail": (
            'rtunnel_tunnel_requests_total{instance="a", client="c", tunnel="t", status="5xx"}',
            "0+60x20",
            "15m",
        ),
        "RtunnelSignalingDown": ('rtunnel_signaling_up{instance="a"}', "0x10", "5m"),
        "RtunnelCertificateExpires": (
            'rtunnel_certificate_expiry_timestamp_seconds{instance="a", peer="p"}',
            "86400x10",
            "5m",
        ),
    }
    tests = []
    for name, (series, values, at) in cases.items():
        fine = "1x10" if "certificate" not in series else f"{86400 * 365}x10"
        for written, count in ((values, 1), (fine, 0)):
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": series, "values": written}],
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)',
                            "eval_time": at,
                            "exp_samples": [{"labels": "{}", "value": count}],
                        }
                    ],
                }
            )
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([need("promtool"), "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_who_may_read(serve: Serve, start_tunnel: StartTunnel) -> None:
    open_, shut = free_port(), free_port()
    tunnel = start_tunnel(
        serve(GET=page("here")).address,
        server=[f"--status-listen={LOOPBACK}:{open_}"],
        client=[f"--status-listen=:{shut}", "--status-token=s3cret"],
    )
    wait_until_open(shut)
    wait_until_open(open_)
    assert get(open_, "/healthz") == (200, "ok\n")
    assert get(open_, "/readyz") == (200, "ready\n")
    assert get(open_, "/metrics", Host="evil.example")[0] == 421
    assert get(open_, "/")[0] == 200
    assert get(open_, "/", Host="evil.example")[0] == 421
    assert get(shut, "/metrics")[0] == 401
    assert get(shut, "/metrics", Authorization="Bearer s3cret", Host="any.example")[0] == 200
    basic = b64encode(b"prometheus:s3cret").decode()
    assert json.loads(get(shut, "/v1/status", Authorization=f"Basic {basic}")[1])["service"] == "rtunnel-client"
    assert "s3cret" not in tunnel.client.output


def test_while_it_drains_it_is_not_ready(serve: Serve, start_tunnel: StartTunnel) -> None:
    port = free_port()
    service = serve(HOLD=lambda connection, *_: connection.recv(1))
    options = [f"--status-listen={LOOPBACK}:{port}", "--drain=1000"]
    tunnel = start_tunnel(service.address, server=options)
    wait_until_open(port)
    with tunnel.visit(b"HOLD"):
        poll(lambda: json.loads(get(port, "/v1/status")[1])["visitors"], PATIENCE, "the visitor")
        tunnel.server.send_signal(signal.SIGTERM)
        tunnel.server.wait_for("waiting up to")
        assert get(port, "/readyz") == (503, "not ready\n")
        assert get(port, "/healthz")[0] == 200
    assert tunnel.server.wait() == 0


def test_mistakes(twistd: Twistds) -> None:
    def why(*options: str) -> str:
        process = twistd.rtunnel("server", *options)
        assert process.wait() == 1
        return process.output

    assert (
        ":7070 would tell everybody who reaches it who is connected; write 127.0.0.1:PORT, or add --status-token, "
        "or --status-tls-ca for client certificates"
    ) in why("--status-listen=:7070")
    assert "has no effect without a status port; add --status-listen 127.0.0.1:7070" in why("--status-token=x")
