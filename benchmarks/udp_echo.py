"""An echo for UDP packets, and what measures by it.

    python benchmarks/udp_echo.py serve HOST PORT                echo every packet, until the process is ended
    python benchmarks/udp_echo.py ask HOST PORT SECONDS          print how many came back in a second
    python benchmarks/udp_echo.py trips HOST PORT SECONDS RATE   print how long they take to come back, as JSON

``ask`` has :data:`WINDOW` packets in flight at a time. After :data:`PATIENCE` seconds without one, all count as lost.
``trips`` sends as many packets in a second as *RATE* says; 0: the next one when the last one is back.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time

PACKET = b"x" * 200
WINDOW = 32
PATIENCE = 0.2
#: How many seconds after the last packet one may still come back.
LATE = 2.0
_NUMBER = struct.Struct(">I196x")


def serve(host: str, port: int) -> None:
    """Echo packets forever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((host, port))
        while True:
            data, source = server.recvfrom(65536)
            server.sendto(data, source)


def connected(host: str, port: int) -> socket.socket:
    """Return a socket for one address."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((host, port))
    return client


def ask(host: str, port: int, seconds: float) -> float:
    """Return how many packets per second came back."""
    count = 0
    with connected(host, port) as client:
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


def trips(host: str, port: int, seconds: float, rate: float) -> tuple[int, list[float]]:
    """Send packets, and wait for them.

    :param rate: packets per second; 0: one at a time.
    :return: how many were sent, and the seconds that each took which came back.
    """
    sent: list[float] = []
    back: dict[int, float] = {}
    with connected(host, port) as client:
        client.setblocking(False)
        now = begin = time.monotonic()
        end = begin + seconds
        while True:
            if rate:
                due = begin + len(sent) / rate
            else:
                due = now if len(sent) - 1 in back or not sent else sent[-1] + PATIENCE
            if due >= end and (len(back) == len(sent) or now > sent[-1] + LATE):
                return len(sent), list(back.values())
            if now >= due and due < end:
                sent.append(time.monotonic())
                client.send(_NUMBER.pack(len(sent) - 1))
            elif select.select([client], [], [], max(0.0, due - now) if due < end else PATIENCE)[0]:
                number = _NUMBER.unpack(client.recv(65536))[0]
                back.setdefault(number, time.monotonic() - sent[number])
            now = time.monotonic()


def share(figures: list[float], part: float) -> float:
    """Return the figure that *part* of all, between 0 and 1, do not exceed."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * part))]


def report(sent: int, back: list[float]) -> str:
    """Return trips as JSON: how many were sent and came back, and two shares of their times in milliseconds."""
    times = {f"p{percent}": share(back, percent / 100) * 1000 if back else None for percent in (50, 99)}
    return json.dumps({"sent": sent, "back": len(back), **times})


if __name__ == "__main__":
    command, host, port, *numbers = sys.argv[1:]
    if command == "serve":
        serve(host, int(port))
    elif command == "ask":
        print(ask(host, int(port), float(numbers[0])))
    else:
        print(report(*trips(host, int(port), float(numbers[0]), float(numbers[1]))))
