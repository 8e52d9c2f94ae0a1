#!/usr/bin/env bash
# Linux 6.18: TIOCOUTQ (SIOCOUTQ) goes on counting bytes as unacknowledged after the peer has reset the connection.
#
# tcp(7) and ioctl's users read the number as "bytes in the send queue that may still arrive": a program that wants to
# close without losing the tail waits for 0. When a service closes its end and a request reaches it a moment later, it
# answers by a reset, and the kernel drops the request. Nothing is on its way any more, and nothing ever will be.
#
# Expected: 0 once the reset is here (tcp_info says TCP_CLOSE), as after an acknowledgement.
# Seen: the number of bytes that were sent, for as long as the socket is open, however long one waits.
set -euo pipefail
python=${PYTHON:-python3}
"$python" - <<'PYTHON'
import array
import fcntl
import os
import socket
import sys
import termios
import time

TCP_CLOSE = 7
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def unacknowledged(connection):
    count = array.array("i", [0])
    fcntl.ioctl(connection, termios.TIOCOUTQ, count)
    return count[0]


def state(connection):
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def meet():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        service, _ = listening.accept()
    return client, service


# As it should be: what was read is acknowledged, and counts no more.
client, service = meet()
client.sendall(REQUEST)
assert service.recv(100) == REQUEST
deadline = time.monotonic() + 5
while unacknowledged(client) and time.monotonic() < deadline:
    time.sleep(0.01)
acknowledged = unacknowledged(client)
client.close()
service.close()

# The service is gone when the request comes.
client, service = meet()
service.close()
assert client.recv(1) == b""
client.sendall(REQUEST)
deadline = time.monotonic() + 5
while state(client) != TCP_CLOSE and time.monotonic() < deadline:
    time.sleep(0.01)
is_closed = state(client) == TCP_CLOSE
time.sleep(1)
left = unacknowledged(client)
client.close()

print(f"Linux {os.uname().release}: {acknowledged} bytes after an acknowledgement")
print(f"after a reset: TCP_CLOSE {is_closed}, {left} bytes of {len(REQUEST)}, a second later")
sys.exit(not (acknowledged == 0 and is_closed and left == len(REQUEST)))
PYTHON
