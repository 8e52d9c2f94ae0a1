#!/usr/bin/env bash
# Autobahn 26.10.2: setProtocolOptions() of a WebSocket server turns allowNullOrigin off, whatever option it sets.
#
# A new factory welcomes clients whose Origin is "null", as browsers send it for pages of files and of sandboxed frames.
# setProtocolOptions() leaves alone what is not named: None stands for that, except for allowNullOrigin, whose default
# is False there and True in the factory. So whoever turns on pings answers such pages with 400 from then on, and a
# second call undoes allowNullOrigin=True of a first.
#
# Expected: "null" is welcomed each time. Seen: not once an option was set, unless allowNullOrigin=True comes with it.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install autobahn==26.10.2 twisted==26.10.0
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport

CALLS = {
    "nothing": [],
    "pings": [{"autoPingInterval": 30}],
    "null with pings": [{"allowNullOrigin": True, "autoPingInterval": 30}],
    "null, then pings": [{"allowNullOrigin": True}, {"autoPingInterval": 30}],
    "an origin, then pings": [{"allowedOrigins": ["https://example.org:443"]}, {"autoPingInterval": 30}],
}
ORIGINS = (b"null", b"https://example.org", b"https://example.com")
HERE = IPv4Address("TCP", "127.0.0.1", 80)


class Transport(StringTransport):
    def unregisterProducer(self):
        """As with real transports, there need be no producer."""


def status(calls, origin):
    """The status line's code for a handshake of this origin, after these calls."""
    factory = WebSocketServerFactory()
    factory.protocol = WebSocketServerProtocol
    for options in calls:
        factory.setProtocolOptions(**options)
    server, transport = factory.buildProtocol(HERE), Transport(HERE, HERE)
    server.makeConnection(transport)
    server.dataReceived(
        b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Origin: " + origin + b"\r\n\r\n"
    )
    return int(transport.value().split()[1])


print("autobahn", importlib.metadata.version("autobahn"))
print("after", *(origin.decode() for origin in ORIGINS), sep=", ")
seen = {name: [status(calls, origin) for origin in ORIGINS] for name, calls in CALLS.items()}
for name, results in seen.items():
    print(f"{name}:", *results)
as_seen = seen == {
    "nothing": [101, 101, 101],
    "pings": [400, 101, 101],
    "null with pings": [101, 101, 101],
    "null, then pings": [400, 101, 101],
    "an origin, then pings": [400, 101, 400],
}
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
