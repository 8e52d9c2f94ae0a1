"""Pipes for ``splice``. A relay has one only while bytes are in it.

Bytes that go from one socket through a pipe to another are not copied, which makes bulk transfers cheap. A pipe costs
two descriptors and a part of the user's pipe buffers, so their number is bounded. A relay that gets no pipe copies.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from rtunnel.relay.sockets import descriptor_limit

try:
    import fcntl
except ImportError:  # this system has no splice
    fcntl = None  # type: ignore[assignment]

#: Whether this system and this Python can splice.
HAVE_SPLICE = hasattr(os, "splice") and hasattr(os, "pipe2") and hasattr(fcntl, "F_SETPIPE_SZ")

#: Errors of ``splice`` for a socket, or a system, on which it does not work.
CANNOT_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if HAVE_SPLICE else 0

#: The capacities to ask for, in bytes, best first. Linux gives an unprivileged user 64 pipes of the first size.
SIZES = (1 << 20, 1 << 18)
#: How many pipes may be in use at once, and which part of our descriptors they may take.
MAX_IN_USE = 64
SHARE = 1 / 16
#: How many empty pipes are kept open for later.
MAX_IDLE = 8


class Pipe:
    """Both ends of a non-blocking pipe.

    :ivar count: how many bytes are in it.
    """

    __slots__ = ("count", "read_end", "write_end")

    def __init__(self) -> None:
        """Make the pipe.

        :raises OSError: no descriptor is left.
        """
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.count = 0
        for size in SIZES:
            try:
                fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, size)
            except OSError:
                continue  # the user has too many large ones; a pipe of any size will do
            break

    def send_to(self, number: int) -> bytes:
        """Move what is in the pipe to the socket with this descriptor, as far as that accepts it.

        :return: what is in the pipe, if it cannot be spliced to that socket; else nothing.
        :raises OSError: the connection is lost.
        """
        try:
            while self.count:
                # Ask for exactly what the pipe holds: asked for more, the kernel would hold back the last packet and
                # wait.
                self.count -= os.splice(self.read_end, number, self.count, flags=SPLICE_FLAGS)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in CANNOT_SPLICE:
                raise
            rest = os.read(self.read_end, self.count)
            self.count -= len(rest)
            return rest
        return b""

    def close(self) -> None:
        """Close both ends. Bytes in the pipe are lost."""
        for end in (self.read_end, self.write_end):
            with suppress(OSError):
                os.close(end)


class Pipes:
    """The pipes of a process. Its length is the number of idle pipes that are kept open.

    :ivar in_use: how many pipes are in use.
    """

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self.in_use = 0

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> Pipe | None:
        """Return an empty pipe, or None if too many are in use or the system gives none."""
        if self.in_use >= min(MAX_IN_USE, descriptor_limit() * SHARE / 2):
            return None
        try:
            pipe = self._idle.pop() if self._idle else Pipe()
        except OSError:
            return None
        self.in_use += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take *pipe* back. If bytes are in it, close it: no other relay may get them."""
        self.in_use -= 1
        if pipe.count or len(self._idle) >= MAX_IDLE:
            pipe.close()
        else:
            self._idle.append(pipe)


#: All relays of the process share this, because the limits are for the whole process.
PIPES = Pipes()
