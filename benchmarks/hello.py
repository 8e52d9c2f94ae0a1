"""Connections that begin as those of TLS do: what a visitor costs who is routed by the name in his ClientHello.

A handshake would cost both ends many times what the tunnel does, and drown the difference. So there is none: the
visitor sends a ClientHello, which is that of a browser in length and content, and the service reads it and answers with
a page, in the clear, and closes. wrk makes the load, and takes that for one request on each connection. By a port of
its own and by name, visitor and service do the same, so the ratio of both is the price of the name.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path

from OpenSSL import SSL

from benchmarks.parts import HOST, START, Failed, find

NAME = "app.example.org"
#: nginx answers once it has read the hello.
CONF = r"""
{module}
daemon off; master_process off; pid {directory}/hello.pid; error_log stderr;
events {{ worker_connections 4096; }}
stream {{ server {{
    listen 127.0.0.1:{port} backlog=1024; ssl_preread on;
    return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
}} }}
"""


def hello() -> bytes:
    """Return the ClientHello of OpenSSL, with a post-quantum key."""
    client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    client.set_tlsext_host_name(NAME.encode())
    client.set_connect_state()
    with suppress(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(1 << 16)


def service(directory: Path, port: int, module: str) -> list[str]:
    """Return the command of the service.

    :param module: see :func:`benchmarks.others.stream_module`.
    """
    conf = directory / "hello.conf"
    conf.write_text(CONF.format(module=module, directory=directory, port=port))
    return [find("nginx"), "-c", str(conf), "-e", "stderr"]


#: wrk calls for a first request that it never sends, to see whether it is HTTP.
SCRIPT = """
local first, hello = "GET / HTTP/1.1\\r\\n\\r\\n", "{hello}"
function request()
    local now = first
    first = hello
    return now
end
"""


def script(directory: Path) -> Path:
    """Write what lets wrk send the hello in place of each request."""
    path = directory / "hello.lua"
    path.write_text(SCRIPT.format(hello="".join(f"\\{byte:03}" for byte in hello())))
    return path


def wait_for_service(port: int, log: Path) -> None:
    """Wait until a hello to *port* is answered by the service.

    :raises Failed: it was not in time; the message contains the content of *log*.
    """
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1) as visitor:
            visitor.sendall(hello())
            if visitor.recv(1024).startswith(b"HTTP"):
                return
        time.sleep(0.05)
    raise Failed(f"no service answers a ClientHello to port {port}: {log.read_text().strip()}")
