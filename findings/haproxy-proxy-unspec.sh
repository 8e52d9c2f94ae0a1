#!/usr/bin/env bash
# HAProxy 2.6.12 (Debian 12) closes a connection whose PROXY v2 header has no TCP addresses, unless it says LOCAL.
#
# A proxy that does not know the addresses says "PROXY UNKNOWN" in version 1, and the family UNSPEC in version 2; there
# are families for UDP and UNIX sockets besides. The specification, by HAProxy's author, asks receivers to treat those
# that they do not support as UNSPEC. It leaves it to them whether they accept UNSPEC with the command PROXY; its sample
# receiver does, and so HAProxy's source means to: "unsupported protocol, keep local connection address". But the TLVs
# are checked before that, from the header's first byte, since the place behind the addresses is set for TCP only.
#
# Expected: all are welcomed, those without TCP addresses by the address that connected, as "PROXY UNKNOWN" and LOCAL
# are. Seen: UNSPEC, UDP and UNIX are closed.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The libraries are those that a small Debian 12 may lack.
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download 'haproxy=2.6.12-*' \
    liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 libpcre2-8-0 libssl3)
for package in "$folder"/*.deb; do
    dpkg-deb -x "$package" "$folder/debian"
done
libraries=("$folder"/debian/usr/lib/*-linux-gnu)
LD_LIBRARY_PATH=${libraries[0]} "$python" - "$folder" <<'PYTHON'
import pathlib
import socket
import subprocess
import sys
import time

folder = pathlib.Path(sys.argv[1])
haproxy = folder / "debian/usr/sbin/haproxy"
HOST = "127.0.0.1"
V2 = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL, PROXY = b"\x20", b"\x21"
UNSPEC, TCP4, UDP4, UNIX = b"\x00", b"\x11", b"\x12", b"\x31"
ADDRESSES = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + bytes([4, 87, 0, 80])
PATHS = b"/from".ljust(108, b"\0") + b"/to".ljust(108, b"\0")
NOTHING, NOOP_TLV = b"", b"\x04\x00\x01x"


def v2(command, family, rest):
    return V2 + command + family + len(rest).to_bytes(2, "big") + rest


HEADERS = {
    "v1 TCP4": b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 80\r\n",
    "v1 UNKNOWN": b"PROXY UNKNOWN\r\n",
    "v2 PROXY TCP4": v2(PROXY, TCP4, ADDRESSES),
    "v2 PROXY TCP4 with a TLV": v2(PROXY, TCP4, ADDRESSES + NOOP_TLV),
    "v2 LOCAL UNSPEC": v2(LOCAL, UNSPEC, NOTHING),
    "v2 PROXY UNSPEC": v2(PROXY, UNSPEC, NOTHING),
    "v2 PROXY UDP4": v2(PROXY, UDP4, ADDRESSES),
    "v2 PROXY UNIX": v2(PROXY, UNIX, PATHS),
}


def connected(port):
    """A connection to HAProxy, for which this waits until it listens."""
    for _ in range(100):
        try:
            return socket.create_connection((HOST, port), 10)
        except ConnectionRefusedError:
            time.sleep(0.1)
    sys.exit("HAProxy does not listen")


def visit(port, header):
    """Whom HAProxy says it saw; "closed" if it said nothing."""
    with connected(port) as visitor:
        answer = b""
        try:
            visitor.sendall(header + b"GET / HTTP/1.0\r\n\r\n")
            while data := visitor.recv(1000):
                answer += data
        except ConnectionError:
            pass
    return answer.decode().rpartition("\r\n\r\n")[2] or "closed"


with socket.create_server((HOST, 0)) as chosen:
    port = chosen.getsockname()[1]
(folder / "haproxy.cfg").write_text(f"""
defaults
    mode http
    timeout client 10s
    timeout connect 10s
    timeout server 10s
frontend welcome
    bind {HOST}:{port} accept-proxy
    http-request return status 200 content-type text/plain lf-string %[src]
""")
print(subprocess.check_output([haproxy, "-v"], text=True).splitlines()[0])
running = subprocess.Popen([haproxy, "-db", "-q", "-f", folder / "haproxy.cfg"])
try:
    seen = {name: visit(port, header) for name, header in HEADERS.items()}
finally:
    running.terminate()
    running.wait()
for name, result in seen.items():
    print(f"{name}: {result}")
as_seen = list(seen.values()) == ["192.0.2.1", HOST, "192.0.2.1", "192.0.2.1", HOST, *["closed"] * 3]
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
