#!/usr/bin/env bash
# Linux: conntrack keeps an answered UDP flow for 30 s, not for 120 s, if it fell silent within its first two seconds.
#
# A NAT or stateful firewall forgets UDP flows after nf_conntrack_udp_timeout, 30 s. The documentation has a longer time
# for a flow that is found to be a stream, nf_conntrack_udp_timeout_stream, 120 s; tutorials say that this is one that
# was answered. But only a packet that comes two seconds after the first, or later, makes it a stream, whatever came
# before: the kernel does not want to remember the pairs of questions that DNS clients ask. A handshake and a hundred
# answers within a second leave a flow like a single answer. A peer that then sends a keepalive each 60 s, for which the
# NAT seems good enough, has been forgotten before the first of them.
#
# Expected: 120 s for each of these flows. Seen on Linux 6.18: 30 s for all but the one that went on after two seconds.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root, for a network namespace" >&2; exit 2; }
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The libraries are those that a small Debian 12 may lack.
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download conntrack nftables libnftables1 libnftnl11 libmnl0 \
    libnetfilter-conntrack3 libnfnetlink0 libxtables12 libjansson4 libedit2 libbsd0 libmd0 libgmp10 libtinfo6)
for package in "$folder"/*.deb; do
    dpkg-deb -x "$package" "$folder/debian"
done
libraries=("$folder"/debian/usr/lib/*-linux-gnu "$folder"/debian/lib/*-linux-gnu)
LD_LIBRARY_PATH=${libraries[0]}:${libraries[1]} unshare --net "$python" - "$folder/debian/usr/sbin" <<'PYTHON'
import fcntl
import pathlib
import platform
import socket
import struct
import subprocess
import sys
import time

programs = pathlib.Path(sys.argv[1])
settings = pathlib.Path("/proc/sys/net/netfilter")
HOST = "127.0.0.1"
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
TRACK = """
table inet tracked {
    chain output {
        type filter hook output priority 0
        ct state new counter
    }
}
"""
#: For each flow, the seconds before each of its questions, all of which are answered.
FLOWS = {
    "one answer": [0],
    "100 answers at once": [0] * 100,
    "two answers, 1 s apart": [0, 1],
    "two answers, 2.5 s apart": [0, 2.5],
}


def udp():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((HOST, 0))
    made.settimeout(5)
    return made


def entry(port):
    """For how many seconds conntrack keeps the flow from this port, and whether it is assured."""
    listed = subprocess.run(
        [programs / "conntrack", "-L", "-p", "udp", "--orig-port-src", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    ).stdout
    return int(listed.split()[2]), "[ASSURED]" in listed


def flow(pauses):
    """The entry of a flow behind its last packet; None if the machine was so slow that two seconds were over."""
    with udp() as asking, udp() as answering:
        begun = time.monotonic()
        for pause in pauses:
            time.sleep(pause)
            asking.sendto(b"question", answering.getsockname())
            _question, asker = answering.recvfrom(100)
            answering.sendto(b"answer", asker)
            asking.recv(100)
        if sum(pauses) < 2 < time.monotonic() - begun:
            return None
        return entry(asking.getsockname()[1])


print(platform.system(), platform.release())
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
subprocess.run([programs / "nft", "-f", "-"], input=TRACK, text=True, check=True)
short, stream = (int((settings / f"nf_conntrack_udp_timeout{end}").read_text()) for end in ("", "_stream"))
print(f"nf_conntrack_udp_timeout {short}, nf_conntrack_udp_timeout_stream {stream}")
seen = {}
for name, pauses in FLOWS.items():
    seen[name] = next(filter(None, (flow(pauses) for _ in range(5))), None)
    print(f"{name}: kept for (s), assured:", seen[name])
as_seen = all(
    kept and kept[1] == (name == "two answers, 2.5 s apart") and (kept[0] > short) == kept[1]
    for name, kept in seen.items()
)
sys.exit(0 if as_seen and short < stream else "changed: see what is new")
PYTHON
