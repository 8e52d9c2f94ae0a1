"""Every recipe of docs/recipes.rst works as it is printed: its commands and its files, with the real programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nat.machines import PAGE, Machines
from tests.nat.steps import (
    PRIVATE,
    PUBLIC,
    SECOND,
    USER,
    AcmeCa,
    Carry,
    Export,
    Logged,
    Needs,
    Own,
    Run,
    Says,
    Serve,
    Shell,
    Start,
    Step,
    Stop,
    Until,
    Write,
    perform,
)
from tests.process.harness import Twistds

TUNNEL = "control port listening on 0.0.0.0:7000"

CERTIFICATES: list[Step] = [
    Run(PUBLIC, "rtunnel pki init --name tunnel.example.org"),
    Run(PRIVATE, "ssh tunnel.example.org .rtunnel/bin/rtunnel pki client laptop -o - | rtunnel pki import -"),
]

FLOOD = """python3 -c '
import socket
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
question = b"\\0\\0\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + b"\\3www\\7example\\3org\\0" + b"\\0\\1\\0\\1"
for _ in range(200):
    asking.sendto(question, ("192.0.2.1", 53))
'"""

TINYPROXY = """cat > tinyproxy.conf << 'END'
Port 3128
Listen 192.0.2.20
ConnectPort 443
Allow 192.0.2.10
END
exec tinyproxy -d -c tinyproxy.conf"""

THROUGH_THE_PROXY = "rtunnel client --tls --server tunnel.example.org:443 --tunnel 8080:80 --via"

ONLY_THE_PROXY = """nft add table ip out
nft add chain ip out out '{ type filter hook output priority filter; }'
nft add rule ip out out ip daddr 192.0.2.1 drop"""

SSHD = """exec /usr/sbin/sshd -D -e -o ListenAddress=127.0.0.1 2> >(
while read -r line; do printf '%(%b %e %H:%M:%S)T laptop sshd[1]: %s\n' -1 "$line"; done >> /var/log/auth.log)"""
"""With a log such as syslog writes it: sshd itself puts no times into a file."""

# A connection that is being made when its address is banned gets no answer any more.
LOGIN = (
    "! /usr/bin/ssh -F none -o UserKnownHostsFile=known -o BatchMode=yes -o StrictHostKeyChecking=no "
    "-o ConnectTimeout=60 -p 2222"
)

KNOCK = """! python3 -c '
import socket
for _ in range(10):
    socket.create_connection(("192.0.2.1", 2222)).close()
'"""


def fail2ban(machine: str) -> list[Step]:
    """Have folders for it on this machine."""
    return [
        Own(machine, "/run", ("fail2ban", "sshd")),
        Own(machine, "/var/log", ("nginx",)),
        Own(machine, "/var/lib/fail2ban", ("empty",)),
        Own(machine, "/etc/fail2ban"),
        # Debian's own settings watch sshd.
        Shell(machine, "touch /var/log/auth.log"),
    ]


def app(machine: str) -> str:
    """Start an app that says which machine it is on."""
    return f"""cat > app.conf << 'END'
pid app.pid;
events {{}}
http {{
    access_log app.log;
    server {{
        listen 127.0.0.1:8000;
        location / {{ return 200 "{machine}"; }}
        location = /healthz {{ return 200; }}
    }}
}}
END
exec nginx -e stderr -p "$PWD" -c app.conf -g 'daemon off;'"""


NO_ERRORS = r"(?s)\A(?!.*(?:Socket errors|Non-2xx)).*requests in"
"""What wrk says if all answers are good."""

SCENARIOS: dict[str, list[Step]] = {
    "game server": [
        Needs(("cube2-server", "quakestat")),
        *CERTIFICATES,
        Start(PUBLIC, "rtunnel server --tls --allow-ports 28785-28786", TUNNEL),
        Start(PRIVATE, "cube2-server", "dedicated server started"),
        Start(
            PRIVATE,
            "rtunnel client --tls --server tunnel.example.org:7000 --publish udp:28785-",
            "(?s)(published.*){2}",
        ),
        Run(USER, "quakestat", "0/8 .* My game"),
        Stop(),
    ],
    "web app": [
        *CERTIFICATES,
        AcmeCa(),
        Write(PRIVATE, "app.yaml"),
        Start(PUBLIC, "rtunnel server --tls --http-listen :80 --https-listen :443", "HTTPS port listening"),
        Start(PRIVATE, "rtunnel client --config app.yaml", "app.example.org: certificate from"),
        Run(USER, "curl --include https://app", "^HTTP/1.1 401"),
        Run(USER, "curl --include http://app", "(?s)^HTTP/1.1 301.*^Location: https://app.example.org/"),
        Shell(USER, "curl --user 'alice:tulips and rain' https://app.example.org/", PAGE.decode()),
        Stop(),
    ],
    "DNS": [
        Needs(("unbound", "dig")),
        *CERTIFICATES,
        Write(PRIVATE, "dns.conf"),
        Write(PRIVATE, "dns.yaml"),
        Start(PUBLIC, "rtunnel server --tls --allow-ports 53", TUNNEL),
        Start(PRIVATE, "unbound", "start of service"),
        Start(PRIVATE, "rtunnel client --config dns.yaml", "(?s)(published.*){2}"),
        Run(USER, "dig +short @", r"^192\.0\.2\.80$"),
        Run(USER, "dig +short +tcp @", r"^192\.0\.2\.80$"),
        Shell(USER, "dig @tunnel.example.org www.example.com", "status: REFUSED"),
        Shell(PRIVATE, "! dig +tries=1 +timeout=1 @127.0.0.1 -p 5301 www.example.org"),
        Shell(USER, FLOOD),
        Says(PRIVATE, r"ip_ratelimit exceeded 192\.0\.2\.20 "),
        Stop(),
    ],
    "SSH": [
        Needs(("fail2ban-server", "nginx", "nft", "sshd")),
        *CERTIFICATES,
        *fail2ban(PUBLIC),
        *fail2ban(PRIVATE),
        Write(PUBLIC, "/etc/fail2ban/filter.d/rtunnel.conf"),
        Write(PUBLIC, "/etc/fail2ban/jail.d/rtunnel.conf"),
        Write(PRIVATE, "/etc/fail2ban/jail.d/ssh.local"),
        Write(PRIVATE, "ssh.conf"),
        Write(PRIVATE, "ssh.yaml"),
        Start(PUBLIC, "twistd -n --pidfile= --logfile=/var/log/rtunnel-server.log", ""),
        Logged(PUBLIC, "/var/log/rtunnel-server.log", TUNNEL),
        Serve(PRIVATE, SSHD),
        *(Serve(machine, "fail2ban-server -xf start", "Server ready") for machine in (PUBLIC, PRIVATE)),
        Run(PRIVATE, "ip rule"),
        Run(PRIVATE, "ip route"),
        Start(PRIVATE, "nginx", ""),
        Start(PRIVATE, "rtunnel client --config ssh.yaml", "the service at 127.0.0.1:2200 answers"),
        *(Shell(USER, f"{LOGIN} nobody-{number}@tunnel.example.org", "Permission denied") for number in range(5)),
        Until(PRIVATE, "fail2ban-client status sshd", r"Banned IP list:\s+192\.0\.2\.20"),
        # The ban may come in the middle of a key exchange, for which ssh has no time-out.
        Until(USER, f"{LOGIN.replace('!', '! timeout 20')} banned@tunnel.example.org", "closed|reset"),
        Run(PRIVATE, "fail2ban-client status sshd", r"Banned IP list:\s+192\.0\.2\.20"),
        Shell(SECOND, f"{LOGIN} nobody@tunnel.example.org", "Permission denied"),
        Until(USER, KNOCK, "refused|unreachable"),
        Shell(PUBLIC, "fail2ban-client status rtunnel", r"Banned IP list:\s+192\.0\.2\.20$"),
        Shell(SECOND, f"{LOGIN} nobody@tunnel.example.org", "Permission denied"),
        Stop(),
    ],
    "database": [
        Needs(("openssl", "redis-server", "redis-cli")),
        *CERTIFICATES,
        Write(PRIVATE, "redis.conf"),
        Write(PRIVATE, "redis.yaml"),
        Start(PUBLIC, "rtunnel server --tls --allow-ports 6380", TUNNEL),
        Run(PRIVATE, "openssl req"),
        Start(PRIVATE, "redis-server redis.conf", "Ready to accept connections"),
        Start(PRIVATE, "rtunnel client --config redis.yaml", "the service at 127.0.0.1:6380 answers"),
        Carry("redis.crt", PRIVATE, USER),
        Run(USER, "REDISCLI_AUTH=", "^PONG"),
        Shell(PRIVATE, "! redis-cli --tls --cacert redis.crt -h tunnel.example.org -p 6380 ping", "Could not connect"),
        Stop(),
    ],
    "two machines": [
        Needs(("nginx", "wrk")),
        *CERTIFICATES,
        Run(SECOND, "ssh tunnel.example.org .rtunnel/bin/rtunnel pki client desktop -o - | rtunnel pki import -"),
        *(Write(machine, "site.yaml") for machine in (PRIVATE, SECOND)),
        *(Serve(machine, app(machine)) for machine in (PRIVATE, SECOND)),
        Start(PUBLIC, "rtunnel server --tls --http-listen :80", "HTTP port listening"),
        Start(PRIVATE, "rtunnel client --config site.yaml", "passes its health check"),
        Start(SECOND, "rtunnel client --config site.yaml", "passes its health check"),
        Start(USER, "wrk", ""),
        Logged(PRIVATE, "app.log", "GET / "),
        Shell(PRIVATE, 'kill "$(cat app.pid)"'),
        Says(PRIVATE, "fails its health check"),
        Run(USER, "wrk", NO_ERRORS),
        Serve(PRIVATE, app(PRIVATE)),
        Says(PRIVATE, "passes its health check again"),
        Until(USER, "curl --silent http://app.example.org/", PRIVATE),
        Stop(),
    ],
    "proxy": [
        Needs(("tinyproxy", "nft")),
        *CERTIFICATES,
        Start(PUBLIC, "rtunnel server --tls --control-listen :443 --allow-ports 8080", "control port listening"),
        Serve(USER, TINYPROXY, "listening"),
        Shell(PRIVATE, ONLY_THE_PROXY),
        Start(PRIVATE, f"{THROUGH_THE_PROXY} http://", "published"),
        Run(USER, "curl http://tunnel.example.org:8080/", "Hello"),
        Stop(),
        Start(PUBLIC, "rtunnel server --tls --control-listen :443 --allow-ports 8080", "control port listening"),
        Serve(USER, TINYPROXY, "listening"),
        Export("export HTTPS_PROXY=http://proxy.corp.example:3128"),
        Start(PRIVATE, f"{THROUGH_THE_PROXY} env", "published"),
        Run(USER, "curl http://tunnel.example.org:8080/", "Hello"),
        Stop(),
    ],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_recipe_as_printed(scenario: str, machines: Machines, twistd: Twistds, tmp_path: Path) -> None:
    for step in SCENARIOS[scenario]:
        perform(step, machines, twistd, tmp_path)
