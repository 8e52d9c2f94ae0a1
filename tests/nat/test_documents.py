"""Every command of the documents runs as it is printed, on the machine that the document means.

``SCENARIOS`` says which command runs where, and what it has to say. A command is named by its beginning; that all of
them are named here is seen in tests/test_docs.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nat.machines import ADDRESSES, Machines
from tests.nat.steps import (
    PRIVATE,
    PUBLIC,
    SECOND,
    USER,
    AcmeCa,
    Ask,
    Browse,
    Carry,
    Curl,
    Export,
    Fetch,
    Logged,
    Needs,
    PublicCa,
    Redeem,
    Run,
    Sample,
    Shell,
    Start,
    Step,
    Stop,
    WriteBlock,
    perform,
)
from tests.process.harness import Twistds

TUNNEL = "control port listening on 0.0.0.0:7000"
SERVER = ADDRESSES[PUBLIC]
SIGNAL = "signaling port listening on 0.0.0.0:"
BY_UDP = r"datagrams to and from 192\.0\.2\.1:7000 \(tunnel\.example\.org\) go by UDP\n"
GAMES = "27015 is published for UDP.*5300 is published for UDP"
CONNECTED = "connected to host 'myhost': direct"

APP = "app.example.org"
OBTAINED = f"{APP}: certificate from .*, valid until"
SERVICE = "%header{service}"

CERTIFIED = (
    "rtunnel client --tls --server tunnel.example.org:7000 \\\n"
    "    --publish https:app.example.org=127.0.0.1:3000 --acme-email you@example.org"
)

SCENARIOS: dict[str, list[Step]] = {
    "quick start of the reverse tunnel, then signaling with a CA of its own": [
        Run(PUBLIC, "rtunnel pki init --name tunnel.example.org"),
        Start(PUBLIC, "rtunnel server --tls --allow-ports 8080", TUNNEL),
        Run(PRIVATE, "ssh tunnel.example.org .rtunnel/bin/rtunnel pki client laptop -o - | rtunnel pki import -"),
        Start(PRIVATE, "rtunnel client --tls --server tunnel.example.org:7000 --tunnel 8080:80", r"example\.org:8080 "),
        Fetch(USER, SERVER),
        Stop(),
        Start(PUBLIC, "rtunnel server --tls --allow-ports 27015,5300", TUNNEL),
        Start(
            PRIVATE,
            "rtunnel client --tls --server tunnel.example.org:7000 --publish udp:27015=27015 --publish udp:5300=53",
            rf"(?s){BY_UDP}.*{GAMES}|{GAMES}.*{BY_UDP}",
        ),
        Ask(USER, 5300, SERVER),
        Stop(),
        Run(PRIVATE, "rtunnel id", "host: .*new; its key is in"),
        Run(PUBLIC, "rtunnel pki init --dir org --name unused.example.org"),
        Run(PUBLIC, "rtunnel pki host --dir org myhost"),
        Run(PUBLIC, "rtunnel pki client --dir org laptop"),
        Run(PUBLIC, "rtunnel pki init --dir signal --name signal.example.org"),
        Start(PUBLIC, "RTUNNEL_VALID_TOKENS=my-secret-token rtunnel signal --addr :8443", SIGNAL + "8443"),
        Run(PRIVATE, "ssh signal.example.org cat signal/ca.crt > ca.crt"),
        Run(USER, "ssh signal.example.org cat signal/ca.crt > ca.crt"),
        Start(PRIVATE, "RTUNNEL_TOKEN=my-secret-token rtunnel host --signal wss://signal.example.org:8443", "offers"),
        Start(USER, "RTUNNEL_TOKEN=my-secret-token rtunnel connect --signal wss://signal.example.org:8443", CONNECTED),
        Fetch(USER, "127.0.0.1"),
    ],
    "more than one machine": [
        Needs(("redis-server",)),
        Start(USER, "redis-server --save '' --requirepass my-password", "Ready to accept connections"),
        Export("export RTUNNEL_CLUSTER=redis://my-password@redis.example.org"),
        Run(PUBLIC, "rtunnel pki init --name tunnel.example.org tunnel2.example.org"),
        Start(PUBLIC, "rtunnel server --tls --allow-ports 8080 --cluster-advertise tunnel.example.org:7000", TUNNEL),
        Run(SECOND, "ssh tunnel.example.org .rtunnel/bin/rtunnel pki bundle server -o - | rtunnel pki import -"),
        Start(
            SECOND,
            "rtunnel server --tls --allow-ports 8080 --cluster-advertise tunnel2.example.org:7000",
            r"connected to 192\.0\.2\.1:7000",
        ),
        Run(PRIVATE, "ssh tunnel.example.org .rtunnel/bin/rtunnel pki client laptop -o - | rtunnel pki import -"),
        Start(
            PRIVATE,
            "rtunnel client --tls --server tunnel.example.org:7000 --server tunnel2.example.org:7000 --links 2",
            r"(?s)(example\.org:8080 is published.*){2}",
        ),
        Fetch(USER, SERVER),
        Fetch(USER, ADDRESSES[SECOND]),
        Stop(PUBLIC),
        Fetch(USER, ADDRESSES[SECOND]),
    ],
    "web services by host name": [
        Run(PUBLIC, "rtunnel pki init --name tunnel.example.org"),
        Run(PRIVATE, "ssh tunnel.example.org .rtunnel/bin/rtunnel pki client laptop -o - | rtunnel pki import -"),
        AcmeCa(),
        Start(PUBLIC, "rtunnel server --tls --http-listen :80 --https-listen :443", "HTTPS port listening on .*:443"),
        Start(
            PRIVATE,
            "rtunnel client --tls --server tunnel.example.org:7000 --publish https:app.example.org=127.0.0.1:3000",
            OBTAINED,
        ),
        Browse(USER, f"https://{APP}/"),
        Curl(USER, f"https://{APP}/", SERVICE, "3000"),
        Curl(USER, f"http://{APP}/x?y", "%{http_code} %{redirect_url}", f"301 https://{APP}/x?y"),
        Stop(),
        Start(PUBLIC, "rtunnel server --tls --https-listen :443", "HTTPS port listening on .*:443"),
        Start(
            PRIVATE,
            CERTIFIED,
            f"{APP} is published",
        ),
        Curl(USER, f"https://{APP}/", SERVICE, "3000"),
        Stop(),
        Shell(PRIVATE, "rm -r .local/state/rtunnel"),
        Start(PUBLIC, "rtunnel server --tls --http-listen :80 --https-listen :443", "HTTPS port listening on .*:443"),
        Start(
            PRIVATE,
            f"{CERTIFIED} --acme-challenge http-01",
            OBTAINED,
        ),
        Curl(USER, f"https://{APP}/", SERVICE, "3000"),
        Stop(),
        Start(PUBLIC, "rtunnel server --tls --http-listen :80", "HTTP port listening on .*:80"),
        Start(
            PRIVATE,
            "rtunnel client --tls --server tunnel.example.org:7000 \\\n    --publish http:",
            r"(?s)(.* is published){3}",
        ),
        Curl(USER, f"http://{APP}/", SERVICE, "3000"),
        Curl(USER, f"http://{APP}/api/x", SERVICE, "3001"),
        Curl(USER, "http://blog.dev.example.org/", SERVICE, "4000"),
        Start(
            PRIVATE,
            "rtunnel client --tls --server tunnel.example.org:7000 --publish http:files.example.org=",
            "http://files.example.org is published; visitors see the files in /srv/share",
        ),
        Curl(
            USER, "http://files.example.org/hello.txt", "%{http_code} %{content_type}", "200 text/plain; charset=utf-8"
        ),
    ],
    "quick start of the WebRTC tunnel": [
        Start(PUBLIC, "rtunnel signal --addr :8080", SIGNAL + "8080"),
        Start(
            PRIVATE,
            "rtunnel host --signal ws://signal.example.org:8080 --service web=127.0.0.1:80 --invite",
            "is good for",
        ),
        Redeem(
            USER,
            "rtunnel connect 7-guitarist-orca --signal ws",
            "connected to host .*: direct.*; sealed X25519MLKEM768",
        ),
        Fetch(USER, "127.0.0.1"),
    ],
    "the WebRTC tunnel by a token and an ID": [
        Start(PUBLIC, "RTUNNEL_VALID_TOKENS=my-secret-token rtunnel signal --addr :8080", SIGNAL + "8080"),
        Run(PUBLIC, "curl --fail http://127.0.0.1:8080/healthz"),
        Start(
            PRIVATE,
            "RTUNNEL_TOKEN=my-secret-token rtunnel host --signal ws://signal.example.org:8080",
            r"host 'myhost' offers tcp 127\.0\.0\.1:80",
        ),
        Start(USER, "RTUNNEL_TOKEN=my-secret-token rtunnel connect --signal ws://signal.example.org:8080", CONNECTED),
        Fetch(USER, "127.0.0.1"),
    ],
    "signaling with a certificate of a public CA": [
        PublicCa(),
        Start(PUBLIC, "RTUNNEL_VALID_TOKENS=my-secret-token rtunnel signal --addr :443", SIGNAL + "443"),
        Start(PRIVATE, "RTUNNEL_TOKEN=my-secret-token rtunnel host --signal wss://signal.example.org --id", "offers"),
        Start(USER, "RTUNNEL_TOKEN=my-secret-token rtunnel connect --signal wss://signal.example.org --id", CONNECTED),
        Fetch(USER, "127.0.0.1"),
    ],
    "UDP, services and TURN": [
        Export("export RTUNNEL_TOKEN=my-secret-token"),
        Start(PUBLIC, "RTUNNEL_VALID_TOKENS=my-secret-token rtunnel signal --addr :8080", SIGNAL + "8080"),
        Start(
            PRIVATE,
            "rtunnel host --signal ws://signal.example.org:8080 --id myhost --service web=",
            r"offers .*53",
        ),
        Start(USER, "rtunnel connect --signal ws://signal.example.org:8080 --id myhost --forward", CONNECTED),
        Fetch(USER, "127.0.0.1"),
        Ask(USER, 5353),
        Stop(),
        Start(PUBLIC, "RTUNNEL_VALID_TOKENS=my-secret-token rtunnel signal --addr :8080", SIGNAL + "8080"),
        Start(PRIVATE, "rtunnel host --signal ws://signal.example.org:8080 --id myhost --protocol udp", "offers udp"),
        Start(USER, "rtunnel connect --signal ws://signal.example.org:8080 --id myhost --protocol udp", CONNECTED),
        Ask(USER, 5353),
        Stop(),
        Start(PUBLIC, "RTUNNEL_VALID_TOKENS=my-secret-token rtunnel signal --addr :8080", SIGNAL + "8080"),
        Start(
            PRIVATE,
            "rtunnel host --signal ws://signal.example.org:8080 --id myhost --remote 127.0.0.1:80 \\\n"
            "    --turn-server turn:turn.example.org --turn-user",
            "offers",
        ),
        Stop(),
        Start(PUBLIC, "RTUNNEL_VALID_TOKENS=my-secret-token rtunnel signal --addr :8080", SIGNAL + "8080"),
        Start(
            PRIVATE,
            "rtunnel host --signal ws://signal.example.org:8080 --id myhost --remote 127.0.0.1:80 \\\n"
            "    --turn-server turn:turn.example.org --turn-secret",
            "offers",
        ),
        Stop(),
        Start(PUBLIC, "RTUNNEL_VALID_TOKENS=my-secret-token rtunnel signal --addr :8080", SIGNAL + "8080"),
        Start(
            PRIVATE,
            "rtunnel host --signal ws://signal.example.org:8080 --id myhost --remote 127.0.0.1:80 --ice-interface",
            "--ice-interface wg0: this machine has no such interface",
        ),
        Start(
            USER,
            "rtunnel connect --signal ws://signal.example.org:8080 --id myhost --local 127.0.0.1:8080 \\\n"
            "    --ice-interface",
            "--ice-interface 10.8.0.0/24: this machine has no such interface",
        ),
    ],
    "everything on one machine": [
        Start(PRIVATE, "rtunnel server --control-listen 127.0.0.1:7000", "control port listening on 127.0.0.1:7000"),
        Start(PRIVATE, "rtunnel client --server 127.0.0.1:7000 --local 127.0.0.1:80 --remote-port 8080", "0.1:8080 "),
        Fetch(PRIVATE, "127.0.0.1"),
        Stop(),
        Start(PRIVATE, "rtunnel signal --addr 127.0.0.1:8081", "signaling port listening on 127.0.0.1:8081"),
        Start(PRIVATE, "rtunnel host --signal ws://127.0.0.1:8081", "offers"),
        Start(PRIVATE, "rtunnel connect --signal ws://127.0.0.1:8081", CONNECTED),
        Fetch(PRIVATE, "127.0.0.1"),
        Stop(),
        Start(PRIVATE, "RTUNNEL_VALID_TOKENS=laptop:0123456789abcdef rtunnel server", "127.0.0.1:7000"),
        Start(PRIVATE, "RTUNNEL_TOKEN=0123456789abcdef rtunnel client", r"127\.0\.0\.1:8080 "),
        Fetch(PRIVATE, "127.0.0.1"),
    ],
    "several services, a shared port, and the old programs' way": [
        Run(PUBLIC, "rtunnel pki init --name tunnel.example.org"),
        Run(PUBLIC, "rtunnel pki client laptop -o laptop.pem     # on the public machine"),
        Carry("laptop.pem", PUBLIC, PRIVATE),
        Run(PRIVATE, "rtunnel pki import laptop.pem               # on the private machine"),
        Start(PUBLIC, "rtunnel server --tls --allow-ports 8080", TUNNEL),
        Start(
            PRIVATE, "rtunnel client --tls --server tunnel.example.org:7000 --tunnel 8080:80 --tunnel 2222", ":8080 "
        ),
        Fetch(USER, SERVER),
        Stop(),
        Start(PUBLIC, "rtunnel server --tls --public-listen :8080", TUNNEL),
        Start(PRIVATE, "rtunnel client --tls --server tunnel.example.org:7000 --local 127.0.0.1:80", "0.1:80"),
        Fetch(USER, SERVER),
        Stop(),
        Start(PUBLIC, "rtunnel server --tls --control-listen haproxy:tcp:7000", "control port listening on"),
        Stop(),
        Start(PUBLIC, "rtunnel server --control-listen :7000", "ANYBODY WHO REACHES 0.0.0.0:7000 CAN OPEN PORTS"),
        Start(PRIVATE, "rtunnel client --server tunnel.example.org:7000 --local 127.0.0.1:80 --remote", ":8080 "),
        Fetch(USER, SERVER),
    ],
    "two machines in a group": [
        Run(PUBLIC, "rtunnel pki init --name tunnel.example.org"),
        Run(PRIVATE, "ssh tunnel.example.org .rtunnel/bin/rtunnel pki client laptop -o - | rtunnel pki import -"),
        Start(PUBLIC, "rtunnel server --tls --allow-ports 8080", TUNNEL),
        Run(PRIVATE, "openssl rand -hex 16"),
        WriteBlock(PRIVATE, "web.yaml", "reverse-tunnel.rst", "server: tunnel.example.org:7000\ntls: true\n"),
        # Two clients on one machine are two members as well.
        Start(PRIVATE, "rtunnel client --config web.yaml", r"example\.org:8080 "),
        Start(PRIVATE, "rtunnel client --config web.yaml", r"example\.org:8080 "),
        Fetch(USER, SERVER),
        Fetch(USER, SERVER),
    ],
    "certificates": [
        Run(PUBLIC, "rtunnel pki init --name tunnel.example.org 192.0.2.1"),
        Run(PUBLIC, "rtunnel pki client laptop -o laptop.pem"),
        Carry("laptop.pem", PUBLIC, PRIVATE),
        Run(PRIVATE, "rtunnel pki import laptop.pem"),
        Run(PUBLIC, "rtunnel pki bundle server -o server.pem"),
        Carry("server.pem", PUBLIC, USER),
        Run(USER, "rtunnel pki import server.pem --group rtunnel"),
        Run(PUBLIC, "rtunnel pki renew server --name tunnel.example.org --name tunnel.example.net"),
        Run(PUBLIC, "rtunnel pki renew            # all"),
        Run(PUBLIC, "rtunnel pki renew laptop"),
        Run(PUBLIC, "rtunnel pki revoke laptop"),
    ],
    "certificates for services": [
        Run(PUBLIC, "rtunnel pki init --name tunnel.example.org --group rtunnel"),
        Run(PUBLIC, "rtunnel pki client laptop -o - | ssh laptop rtunnel pki import -"),
    ],
    "operations": [
        Sample(PUBLIC, "server.yaml"),
        Sample(PRIVATE, "client.yaml"),
        Sample(PRIVATE, "rtc.yaml"),
        Run(PUBLIC, "rtunnel pki init --name tunnel.example.org"),
        Run(PUBLIC, "rtunnel pki client laptop -o laptop.pem"),
        Carry("laptop.pem", PUBLIC, PRIVATE),
        Run(PRIVATE, "rtunnel pki import laptop.pem --group rtunnel"),
        Start(PUBLIC, "rtunnel server --config server.yaml", TUNNEL),
        Stop(),
        Start(PUBLIC, "twistd -n --pidfile= rtunnel-server --config server.yaml", TUNNEL),
        Stop(),
        Run(PUBLIC, "mkdir -p run log"),
        Run(PUBLIC, "twistd --pidfile=run/server.pid"),
        Logged(PUBLIC, "log/server.log", TUNNEL),
        Run(PUBLIC, 'kill "$(cat run/server.pid)"'),
        Logged(PUBLIC, "log/server.log", "SIGTERM: stopping"),
        Start(PUBLIC, "RTUNNEL_CONFIG=server.yaml twistd -ny", TUNNEL),
        Start(PRIVATE, "RTUNNEL_CONFIG=client.yaml twistd -ny", r"example\.org:8080 "),
        Fetch(USER, SERVER),
        Stop(),
        Start(PRIVATE, "RTUNNEL_CONFIG=rtc.yaml twistd -ny", "cannot reach signaling server ws://signal.example.org"),
    ],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_commands_as_printed(scenario: str, machines: Machines, twistd: Twistds, tmp_path: Path) -> None:
    for step in SCENARIOS[scenario]:
        perform(step, machines, twistd, tmp_path)
