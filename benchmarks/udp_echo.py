"""Count UDP packets per second, there and back.

    python benchmarks/udp_echo.py serve PORT         echo every packet, until the process is ended
    python benchmarks/udp_echo.py ask PORT SECONDS   print how many came back in a second

:data:`WINDOW` packets are in flight at a time. After :data:`PATIENCE` seconds without one, all count as lost.
"""

from __future__ import annotations

import socket
import sys
import time

PACKET = b"x" * 200
WINDOW = 32
PATIENCE = 0.2


def serve(port: int) -> None:
    """Echo packets forever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        while True:
            data, source = server.recvfrom(65536)
            server.sendto(data, source)


def ask(port: int, seconds: float) -> float:
    """Return how many packets per second came back."""
    count = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.settimeout(PATIENCE)
        end = time.monotonic() + seconds
        missing = WINDOW
        while time.monotonic() < end:
            for _ in range(missing):
                client.send(PACKET)
            try:
                client.recv(65536)
            except (TimeoutError, ConnectionRefusedError):
                missing = WINDOW
            else:
                missing = 1
                count += 1
    return count / seconds


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    print(ask(int(sys.argv[2]), float(sys.argv[3])))
