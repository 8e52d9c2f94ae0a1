"""Makes docs/status.png: the page of a server with a few clients and visitors, all real, on fixed ports of loopback.

Run it as ``python -m tests.chrome.screenshot [PATH]``; it takes two minutes. The ports 3000 to 3004, 7000, 7070, 8000,
8022 and 8080 must be free.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from tests.chrome.devtools import Page
from tests.process.harness import clean_environment, wait_until_open
from tests.process.services import LOOPBACK

SECONDS = 100
CLIENTS: dict[str, list[dict[str, str]]] = {
    "web-berlin": [
        {"publish": f"http:shop.example.org={LOOPBACK}:3000"},
        {"publish": f"http:blog.example.org={LOOPBACK}:3001"},
    ],
    "office": [
        {"publish": f"tcp:8080={LOOPBACK}:3002"},
        {"publish": f"http:wiki.example.org={LOOPBACK}:3003"},
    ],
    "nas": [{"publish": f"tcp:8022={LOOPBACK}:3004"}],
    "cam-garage": [{"publish": f"http:cam.example.org={LOOPBACK}:3009", "health-check": "tcp"}],
}
HOSTS = ["shop", "shop", "blog", "wiki"]
PORTS = [8080, 8022]


def serve(port: int) -> None:
    """Take connections, and keep them until the other end closes them."""
    listening = socket.create_server((LOOPBACK, port))

    def hold(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                if data.startswith(b"GET"):
                    size = random.randrange(2_000, 40_000)
                    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    connection.sendall(head + f"{size:x}\r\n".encode() + bytes(size) + b"\r\n")
                else:
                    connection.sendall(bytes(random.randrange(20_000)))

    def accept() -> None:
        while True:
            connection, _ = listening.accept()
            Thread(target=hold, args=[connection], daemon=True).start()

    Thread(target=accept, daemon=True).start()


def visit(chance: random.Random, kept: list[tuple[float, socket.socket]]) -> None:
    """Let some come and others go."""
    now = time.monotonic()
    for each in [each for each in kept if each[0] < now]:
        kept.remove(each)
        each[1].close()
    for _ in range(chance.choice([0, 0, 0, 1, 1, 2])):
        host = chance.choice([*HOSTS, ""])
        port = 8000 if host else chance.choice(PORTS)
        with suppress(OSError):
            connection = socket.create_connection((LOOPBACK, port))
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}.example.org\r\n\r\n".encode() if host else b"hello")
            kept.append((now + chance.expovariate(1 / 8), connection))


def main(path: Path) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        pki = directory / "pki"
        environment = clean_environment({"RUNTIME_DIRECTORY": str(directory), "RTUNNEL_PKI_DIR": str(pki)})

        def start(*arguments: str) -> None:
            argv: Sequence[str] = [sys.executable, "-m", "rtunnel", *arguments]
            process = stack.enter_context(subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL))
            stack.callback(process.terminate)

        for port in range(3000, 3005):
            serve(port)
        for arguments in (["init", f"--name={LOOPBACK}"], *(["client", name] for name in CLIENTS)):
            argv = [sys.executable, "-m", "rtunnel", "pki", *arguments, f"--dir={pki}"]
            subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
        start(
            *("server", "--tls", f"--control-listen={LOOPBACK}:7000", f"--public-interface={LOOPBACK}"),
            *(f"--http-listen={LOOPBACK}:8000", f"--status-listen={LOOPBACK}:7070"),
        )
        wait_until_open(7070)
        for name, tunnels in CLIENTS.items():
            config = directory / f"{name}.yaml"
            cert = pki / "clients" / f"{name}.crt"
            tls = {"enabled": True, "cert": str(cert), "key": str(cert.with_suffix(".key"))}
            config.write_text(json.dumps({"server": f"{LOOPBACK}:7000", "tls": tls, "tunnels": tunnels}))
            start("client", f"--config={config}")
        for port in PORTS:
            wait_until_open(port)
        page = stack.enter_context(Page(directory, 1120, 700))
        page.prefer("light")
        page.open(f"http://{LOOPBACK}:7070/")
        chance, kept = random.Random(4), list[tuple[float, socket.socket]]()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            visit(chance, kept)
            time.sleep(0.7)
        page.wait("document.querySelector('#right').innerText.includes('cam-garage')")
        page.screenshot(path, page.js("document.querySelector('#tables table').getBoundingClientRect().bottom"))
        for _, connection in kept:
            connection.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "docs" / "status.png")
