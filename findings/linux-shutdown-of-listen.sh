#!/usr/bin/env bash
# Linux: a TCP socket whose port the system chose gives the port back when shutdown() ends its listening, and goes on
# naming it. The next listen() takes another port. A port that was asked for by its number is kept.
#
# shutdown(SHUT_RDWR) on a listening socket makes it stop listening without being closed; listen() starts it again. One
# would expect the same address in between and afterwards, as getsockname() says all the time. For a socket that was
# bound to port 0, another socket can have the port meanwhile, and peers that were told the first port reach nobody.
#
# Expected: three times the same port, and that nobody else can have it. Seen on Linux 6.18: the third port differs, and
# another socket gets the first.
set -euo pipefail
"${PYTHON:-python3}" - <<'PYTHON'
import errno
import platform
import socket
import sys

print(platform.system(), platform.release())
if platform.system() != "Linux":
    sys.exit("this is about Linux")


def life(port):
    """The ports of a socket that listens, is shut down, and listens again, and whether another can bind meanwhile."""
    one = socket.socket()
    one.bind(("127.0.0.1", port))
    one.listen()
    first = one.getsockname()[1]
    one.shutdown(socket.SHUT_RDWR)
    meanwhile = one.getsockname()[1]
    other = socket.socket()
    try:
        other.bind(("127.0.0.1", first))
        other_can = True
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        other_can = False
    one.listen()
    after = one.getsockname()[1]
    other.close()
    one.close()
    return first, meanwhile, after, other_can


first, meanwhile, after, other_can = life(0)
print(f"bound to port 0: {first}, shut down {meanwhile}, again {after}; another socket gets the port: {other_can}")
given_back = meanwhile == first and after != first and other_can
# A port that is free a moment ago, asked for by its number.
first, meanwhile, after, other_can = life(first)
print(f"bound to {first}: {first}, shut down {meanwhile}, again {after}; another socket gets the port: {other_can}")
kept = first == meanwhile == after and not other_can
sys.exit(0 if given_back and kept else "changed: see what is new")
PYTHON
