#!/usr/bin/env bash
# Linux: poll() calls an unconnected UNIX datagram socket writable although sendto() would block, time after time.
#
# A UNIX socket for datagrams keeps a few of them, net.unix.max_dgram_qlen, and then senders wait: a blocking sendto()
# sleeps until the receiver has read, and one that does not block says EAGAIN, as for any socket without room. An event
# loop then asks for POLLOUT, to try again when there is room. If the sender is connected, that works. If it names the
# receiver in each sendto(), as programs do for /dev/log and for $NOTIFY_SOCKET, poll() and epoll look at the sender's
# own buffer only, and return at once: the loop spins on a processor for as long as the receiver does not read.
#
# Expected: no POLLOUT while there is no room, and POLLOUT once there is. Seen on Linux 6.18: so it is for the connected
# sender. The other one is told POLLOUT a thousand times, and EAGAIN after each.
set -euo pipefail
"${PYTHON:-python3}" - <<'PYTHON'
import errno
import platform
import select
import socket
import struct
import sys
import tempfile
import time

print(platform.system(), platform.release())
if platform.system() != "Linux":
    sys.exit("this is about Linux")
TIMES = 1000


class Sender:
    """A sender that does not block, to a receiver whose queue it fills."""

    def __init__(self, path, connected):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.poll = select.poll()
        self.poll.register(self.socket, select.POLLOUT)
        self.epoll = select.epoll()
        self.epoll.register(self.socket, select.EPOLLOUT)
        self.to = () if connected else (path,)
        if connected:
            self.socket.connect(path)
        while self.sends():
            pass

    def sends(self):
        """Whether there is room for a datagram."""
        try:
            (self.socket.sendto if self.to else self.socket.send)(b"x", *self.to)
        except BlockingIOError:
            return False
        return True

    def ready(self):
        """Whether poll and epoll say that it can be written, within 20 ms."""
        return bool(self.poll.poll(20)), bool(self.epoll.poll(0.02))


def seen(folder, connected):
    path = f"{folder}/{connected}"
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(path)
    sender = Sender(path, connected)
    full = sender.ready()
    in_vain = 0
    while in_vain < TIMES and all(sender.ready()) and not sender.sends():
        in_vain += 1
    receiver.setblocking(False)
    for _ in range(100):
        try:
            receiver.recv(1)
        except BlockingIOError:
            break
    return {"full": full, "in vain": in_vain, "empty": sender.ready()}


def sleep_of_sendto(folder):
    """For how long a blocking sendto() sleeps whose time-out is 0.3 s."""
    path = f"{folder}/sleep"
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(path)
    sender = Sender(path, connected=False).socket
    sender.setblocking(True)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 300_000))
    begun = time.monotonic()
    try:
        sender.sendto(b"x", path)
    except OSError as error:
        assert error.errno == errno.EAGAIN
        return time.monotonic() - begun
    sys.exit("there was room")


with tempfile.TemporaryDirectory() as folder:
    connected, unconnected = seen(folder, True), seen(folder, False)
    slept = sleep_of_sendto(folder)
print("connected:", connected)
print("unconnected:", unconnected)
print(f"a blocking sendto() slept for {slept:.1f} s")
yes, no = (True, True), (False, False)
as_seen = (
    connected == {"full": no, "in vain": 0, "empty": yes}
    and unconnected == {"full": yes, "in vain": TIMES, "empty": yes}
    and slept > 0.2
)
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
