#!/usr/bin/env bash
# Twisted 26.10.0: with the reactor that Linux gets by default, a connected UDP port is closed by an ICMP error.
#
# A ConnectedDatagramProtocol is told that nobody listens at the other end: connectionRefused() is called, and the port
# goes on. So it is with the select and asyncio reactors. The epoll and poll reactors see the error without anything to
# read, take that for a connection that was closed cleanly, and close the port: stopProtocol() is called, and transport
# becomes None. A program that asks a service which is being restarted, or a peer that is late, never hears of it again.
#
# Expected: with each reactor connectionRefused, and the answer once the service is there. Seen: with epoll and poll,
# the port is closed.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install twisted==26.10.0
cat > "$folder/ask.py" <<'PYTHON'
import importlib
import socket
import sys

importlib.import_module(f"twisted.internet.{sys.argv[1]}reactor").install()

from twisted.internet import reactor
from twisted.internet.protocol import ConnectedDatagramProtocol

HOST = "127.0.0.1"


def service(port=0):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((HOST, port))
    made.settimeout(5)
    return made


with service() as away:
    ADDRESS = away.getsockname()


class Asker(ConnectedDatagramProtocol):
    def startProtocol(self):
        self.seen = []
        self.transport.connect(*ADDRESS)
        self.transport.write(b"is anybody there?")
        reactor.callLater(0.5, self.ask_again)

    def connectionRefused(self):
        self.seen.append("connectionRefused")

    def datagramReceived(self, data, _address=None):
        self.seen.append(data.decode())
        self.end()

    def stopProtocol(self):
        self.seen.append("stopProtocol")

    def ask_again(self):
        if self.transport is None:
            self.end()
            return
        with service(ADDRESS[1]) as there:
            self.transport.write(b"and now?")
            _question, asker = there.recvfrom(100)
            there.sendto(b"answer", asker)

    def end(self):
        print(*self.seen)
        if reactor.running:
            reactor.stop()


reactor.listenUDP(0, Asker(), interface=HOST)
reactor.callLater(15, reactor.stop)
reactor.run()
PYTHON
"$folder/venv/bin/python" -c 'import platform, twisted; print("twisted", twisted.__version__, "Linux", platform.release())'
changed=0
for reactor in select asyncio epoll poll; do
    seen=$("$folder/venv/bin/python" "$folder/ask.py" "$reactor")
    echo "$reactor: $seen"
    case $reactor in
        select | asyncio) expected="connectionRefused answer" ;;
        *) expected="stopProtocol" ;;
    esac
    [ "$seen" = "$expected" ] || changed=1
done
[ $changed = 0 ] || { echo "changed: see what is new" >&2; exit 1; }
