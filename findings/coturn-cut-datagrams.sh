#!/usr/bin/env bash
# coturn 4.6.1 (Debian 12) cuts a datagram of a peer at 16,380 bytes, and relays the first part as if that were all.
#
# A TURN server passes on the data of each UDP datagram as one message (RFC 8656, sections 11.3 and 12.7). What it
# cannot pass on, it may lose, as networks do. A datagram has up to 65,507 bytes, and the length field of a channel has
# room for them. coturn takes 16,380 of them and writes that as the length: a client gets a well-formed message with a
# part of the data, and no sign of it. In the other direction a datagram above that is lost as a whole. iperf3's UDP
# test has 32,768 bytes a datagram on loopback.
#
# Expected: each datagram arrives whole or not at all. Seen: so it is towards the peer. Towards the client all arrive,
# and those above 16,380 bytes have 16,380.
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

    def send(self, size):
        """Send so many bytes to the peer; how many arrive, or None."""
        self.socket.send(struct.pack("!HH", CHANNEL, size) + bytes(size))
        with contextlib.suppress(TimeoutError):
            data, self.relayed = self.peer.recvfrom(65536)
            return len(data)

    def be_sent(self, size):
        """Let the peer send so many bytes; how many the message has, and by its length field, or None."""
        self.peer.sendto(bytes(size), self.relayed)
        with contextlib.suppress(TimeoutError):
            message = self.socket.recv(65536)
            return len(message) - 4, struct.unpack("!HH", message[:4])[1]


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


LIMIT = 16380
SIZES = (1000, LIMIT, 20000, 32768, 60000)
folder = pathlib.Path(sys.argv[1])
with turn_server(folder, sys.argv[2]) as port:
    client = Client(port)
    sent = [client.send(size) for size in SIZES]
    received = [client.be_sent(size) for size in SIZES]
print("coturn 4.6.1; bytes:", *SIZES)
print("to the peer:", *sent)
print("from the peer (bytes, length field):", *received)
as_seen = sent == [1000, LIMIT, None, None, None] and received == [(1000, 1000)] + [(LIMIT, LIMIT)] * 4
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
