#!/usr/bin/env bash
# coturn 4.6.1 (Debian 12) confirms that an allocation is deleted, and still has it for a second, or for good.
#
# A client gives its allocation back by a Refresh with the lifetime 0. The server deletes it at once, and says 0 in its
# response (RFC 8656, section 8). coturn says so, but for about a second more the relay works as before. Allocate is
# refused with 437, "allocation mismatch", which hits a client that starts again from the same port. And a Refresh with
# another lifetime, which should be refused with 437, succeeds: the allocation that was deleted has ten more minutes.
#
# Expected: behind the response neither relay nor Refresh work, and Allocate does. Seen: the contrary; as expected only
# for a client that waits 2.5 s.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The libraries are those that a small Debian 12 may lack.
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download 'coturn=4.6.1-*' libcom-err2 libevent-core-2.1-7 \
    libevent-extra-2.1-7 libevent-openssl-2.1-7 libevent-pthreads-2.1-7 libgssapi-krb5-2 libhiredis0.14 libk5crypto3 \
    libkeyutils1 libkrb5-3 libkrb5support0 libldap-2.5-0 libmariadb3 libpq5 libsasl2-2 libsqlite3-0 libssl3)
for package in "$folder"/*.deb; do
    dpkg-deb -x "$package" "$folder/debian"
done
libraries=("$folder"/debian/usr/lib/*-linux-gnu "$folder"/debian/lib/*-linux-gnu)
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install aioice==0.13.0
"$folder/venv/bin/python" - "$folder" "${libraries[0]}:${libraries[1]}" <<'PYTHON'
import contextlib
import pathlib
import socket
import struct
import subprocess
import sys
import time

from aioice.stun import Class, Message, Method, parse_message

HOST = "127.0.0.1"
UDP = 17 << 24
CHANNEL = 0x4000


def udp():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((HOST, 0))
    made.settimeout(1)
    return made


class Client:
    """A client of the TURN server with an allocation, and with a channel to a peer."""

    def __init__(self, port):
        self.socket = udp()
        self.socket.connect((HOST, port))
        self.peer = udp()
        for _ in range(30):
            with contextlib.suppress(ConnectionRefusedError, TimeoutError):
                self.allocate()
                break
            time.sleep(0.3)
        self.ask(Method.CHANNEL_BIND, {"CHANNEL-NUMBER": CHANNEL, "XOR-PEER-ADDRESS": self.peer.getsockname()})

    def ask(self, method, attributes):
        """The attributes of the response."""
        self.socket.send(bytes(Message(method, Class.REQUEST, attributes=attributes)))
        return parse_message(self.socket.recv(2000)).attributes

    def allocate(self):
        return self.ask(Method.ALLOCATE, {"REQUESTED-TRANSPORT": UDP})

    def refresh(self, lifetime):
        return self.ask(Method.REFRESH, {"LIFETIME": lifetime})

    def relays(self):
        """Whether what it sends arrives at the peer."""
        self.socket.send(struct.pack("!HH", CHANNEL, 4) + b"data")
        with contextlib.suppress(TimeoutError):
            return self.peer.recv(100) == b"data"
        return False


@contextlib.contextmanager
def turn_server(folder, libraries):
    """A TURN server; its port."""
    with udp() as chosen:
        port = chosen.getsockname()[1]
    program = [folder / "debian/usr/bin/turnserver", "-n", "--no-auth", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp"]
    program += ["--allow-loopback-peers", "--listening-ip", HOST, "--relay-ip", HOST, "--listening-port", str(port)]
    program += ["--log-file", "stdout", "--pidfile", folder / "pid", "--userdb", folder / "users"]
    running = subprocess.Popen(program, stdout=subprocess.DEVNULL, env={"LD_LIBRARY_PATH": libraries})
    try:
        yield port
    finally:
        running.terminate()
        running.wait()


def result(attributes):
    """The lifetime of a response, or its error."""
    return attributes["ERROR-CODE"][0] if "ERROR-CODE" in attributes else attributes["LIFETIME"]


folder = pathlib.Path(sys.argv[1])
with turn_server(folder, sys.argv[2]) as port:
    client = Client(port)
    seen = {
        "Refresh, lifetime 0": result(client.refresh(0)),
        "then it relays": client.relays(),
        "Allocate": result(client.allocate()),
        "Refresh, lifetime 600": result(client.refresh(600)),
    }
    time.sleep(2.5)
    seen["2.5 s later it relays"] = client.relays()
    other = Client(port)
    seen["another: Refresh, lifetime 0"] = result(other.refresh(0))
    time.sleep(2.5)
    seen["2.5 s later it relays"] = seen["2.5 s later it relays"], other.relays()
    seen["another: Refresh, lifetime 600"] = result(other.refresh(600))
    seen["another: Allocate"] = result(other.allocate())
print("coturn 4.6.1")
for name, each in seen.items():
    print(f"{name}: {each}")
as_seen = list(seen.values()) == [0, True, 437, 600, (True, False), 0, 437, 600]
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
