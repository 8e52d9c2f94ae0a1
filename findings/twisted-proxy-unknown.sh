#!/usr/bin/env bash
# Twisted 26.10.0: proxyEndpoint() closes a connection that begins with "PROXY UNKNOWN", a valid PROXY header.
#
# The PROXY protocol's specification (section 2.1, version 1) says of the protocol UNKNOWN that the sender may leave out
# the rest of the line, and that the receiver must ignore whatever it finds there. Proxies send it for their own health
# checks, and for connections whose addresses they do not know. Twisted wants addresses and ports there too: it accepts
# the line only if they are present.
#
# Expected: all three visitors are welcomed. Seen: the one with the short line is closed.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install twisted==26.10.0
"$folder/venv/bin/python" - <<'PYTHON'
import socket
import sys
import threading

import twisted
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol

HEADERS = {
    "TCP4": b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 80\r\n",
    "UNKNOWN with addresses": b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1111 80\r\n",
    "UNKNOWN alone": b"PROXY UNKNOWN\r\n",
}


class Welcome(Protocol):
    def dataReceived(self, data):
        self.transport.write(b"welcome, " + data)


def visit(port, header):
    """Send the header and a name; what the server answers."""
    with socket.create_connection(("127.0.0.1", port), 5) as visitor:
        try:
            visitor.sendall(header + b"visitor")
            return visitor.recv(100)
        except ConnectionError:
            return b""


def visits(port):
    results.update({name: visit(port, header) for name, header in HEADERS.items()})
    reactor.callFromThread(reactor.stop)


results = {}
listening = serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1").listen(Factory.forProtocol(Welcome))
listening.addCallback(lambda port: threading.Thread(target=visits, args=(port.getHost().port,)).start())
reactor.callLater(20, reactor.stop)
reactor.run()
print("twisted", twisted.__version__)
print(results)
welcome = b"welcome, visitor"
as_seen = results == {"TCP4": welcome, "UNKNOWN with addresses": welcome, "UNKNOWN alone": b""}
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
