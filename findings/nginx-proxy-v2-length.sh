#!/usr/bin/env bash
# nginx 1.22.1 (Debian 12): a PROXY v2 header of 109 bytes or more is refused by "stream" servers, and by "http" servers
# with TLS. "http" servers without TLS take it.
#
# The header's length field has 16 bits, since TLVs may follow the addresses: TLS details, the server name, a unique ID.
# 107 bytes are the longest line of version 1. nginx reads no more than that in advance, "http" with TLS one more, and
# calls a longer header of version 2 too large. Only where HTTP comes without TLS is the header read into the buffer of
# requests, client_header_buffer_size, 1,024 bytes by default. So a proxy that begins to send TLVs is refused by some
# servers of an nginx and welcomed by others.
#
# Expected: all are welcomed, or all longer ones refused. Seen: 107 bytes are welcomed everywhere, 109 by "http" without
# TLS alone, and by that up to 1,024.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The libraries are those that a small Debian 12 may lack.
(cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download 'nginx=1.22.1-*' 'libnginx-mod-stream=1.22.1-*' \
    libpcre2-8-0 libssl3)
for package in "$folder"/*.deb; do
    dpkg-deb -x "$package" "$folder/debian"
done
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install trustme==1.2.1
"$folder/venv/bin/python" -m trustme --quiet --dir "$folder"
libraries=("$folder"/debian/usr/lib/*-linux-gnu)
LD_LIBRARY_PATH=${libraries[0]} "$python" - "$folder" <<'PYTHON'
import contextlib
import pathlib
import socket
import ssl
import subprocess
import sys
import time

folder = pathlib.Path(sys.argv[1])
nginx = folder / "debian/usr/sbin/nginx"
HOST = "127.0.0.1"
PROXY_TCP4 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11"
ADDRESSES = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + bytes([4, 87, 0, 80])
NOOP = b"\x04"
SERVERS = ("stream", "stream with TLS", "http", "http with TLS")
LENGTHS = (28, 107, 108, 109, 1024, 1025)


def header(length):
    """A PROXY v2 header of this many bytes, with a TLV of the type NOOP if there is room."""
    rest = ADDRESSES
    if length > 28:
        value = bytes(length - 31)
        rest += NOOP + len(value).to_bytes(2, "big") + value
    return PROXY_TCP4 + len(rest).to_bytes(2, "big") + rest


def connected(port):
    """A connection to nginx, for which this waits until it listens."""
    for _ in range(100):
        try:
            return socket.create_connection((HOST, port), 10)
        except ConnectionRefusedError:
            time.sleep(0.1)
    sys.exit("nginx does not listen")


def visit(server, length):
    """Whom nginx says that it saw; "closed" if it said nothing."""
    with contextlib.ExitStack() as stack:
        visitor = stack.enter_context(connected(ports[server]))
        answer = b""
        try:
            visitor.sendall(header(length))
            if "TLS" in server:
                visitor = stack.enter_context(trusting.wrap_socket(visitor, server_hostname="localhost"))
            if "http" in server:
                visitor.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while data := visitor.recv(1000):
                answer += data
        except (ConnectionError, ssl.SSLError):
            pass
    return answer.decode().rpartition("\r\n\r\n")[2] or "closed"


with contextlib.ExitStack() as all_chosen:
    chosen = [all_chosen.enter_context(socket.create_server((HOST, 0))) for _server in SERVERS]
    ports = {server: each.getsockname()[1] for server, each in zip(SERVERS, chosen, strict=True)}
trusting = ssl.create_default_context(cafile=folder / "client.pem")
(folder / "log").mkdir()
module = folder / "debian/usr/lib/nginx/modules/ngx_stream_module.so"
certificate = f"ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;"
temporary = "\n".join(f"{kind}_temp_path log;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
(folder / "nginx.conf").write_text(f"""
load_module {module};
daemon off;
master_process off;
pid log/pid;
events {{}}
stream {{
    {certificate}
    server {{ listen {HOST}:{ports["stream"]} proxy_protocol; return $proxy_protocol_addr; }}
    server {{ listen {HOST}:{ports["stream with TLS"]} proxy_protocol ssl; return $proxy_protocol_addr; }}
}}
http {{
    access_log off;
    {temporary}
    {certificate}
    server {{ listen {HOST}:{ports["http"]} proxy_protocol; return 200 $proxy_protocol_addr; }}
    server {{ listen {HOST}:{ports["http with TLS"]} proxy_protocol ssl; return 200 $proxy_protocol_addr; }}
}}
""")
print(subprocess.run([nginx, "-v"], stderr=subprocess.PIPE, text=True, check=True).stderr.strip())
running = subprocess.Popen([nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "log/error"])
try:
    seen = {server: [visit(server, length) for length in LENGTHS] for server in SERVERS}
finally:
    running.terminate()
    running.wait()
print("bytes of the header:", *LENGTHS)
for server, results in seen.items():
    print(f"{server}:", *results)
errors = (folder / "log/error").read_text().splitlines()
print("log:", *{line.partition(": *")[2].partition(" ")[2].partition(",")[0] for line in errors})
# How many of the lengths each server welcomes.
LIMITS = {"stream": 2, "stream with TLS": 2, "http": 5, "http with TLS": 3}
as_seen = all(
    seen[server] == ["192.0.2.1"] * limit + ["closed"] * (len(LENGTHS) - limit) for server, limit in LIMITS.items()
)
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
