"""What an old process and its successor say to each other, over a pair of UNIX sockets.

A message is its length (u32) and a JSON object. Behind one that names sockets come their descriptors, :data:`AT_ONCE`
at a time, each time with a single byte. Everything blocks, with a bound.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

#: The version of the hand-over: of its messages, and of what is in them. Only equal versions hand over.
VERSION = 1
#: The environment variable that names the new process's end.
VARIABLE = "RTUNNEL_UPGRADE"
#: Descriptors in one message: fewer than the kernel's 253.
AT_ONCE = 100
#: The longest message, in bytes.
LONGEST = 64 << 20

_LENGTH = struct.Struct("!I")


class Broken(Exception):
    """The other end is gone, is too slow, or says what makes no sense."""


class Channel:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = (), timeout: float = 10.0) -> None:
        """Send a message.

        :raises Broken: it cannot be sent within *timeout* seconds.
        """
        content = json.dumps(message).encode()
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(_LENGTH.pack(len(content)) + content)
            for start in range(0, len(descriptors), AT_ONCE):
                socket.send_fds(self._socket, [b"."], list(descriptors[start : start + AT_ONCE]))
        except OSError as error:
            raise Broken(_why(error)) from error

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the next message.

        :raises Broken: none comes within *timeout* seconds.
        """
        try:
            self._socket.settimeout(timeout)
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
            if length > LONGEST:
                raise Broken("it says what makes no sense")
            message = json.loads(self._read(length))
        except OSError as error:
            raise Broken(_why(error)) from error
        except ValueError as error:
            raise Broken("it says what makes no sense") from error
        if not isinstance(message, dict):
            raise Broken("it says what makes no sense")
        return message

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            # Not a byte more: descriptors come with the next one.
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise Broken("it has ended")
            data += piece
        return bytes(data)

    def receive_sockets(self, count: int, timeout: float) -> list[socket.socket]:
        """Return the sockets behind a message.

        :raises Broken: they do not come within *timeout* seconds, or this process may not have so many.
        """
        found: list[socket.socket] = []
        try:
            self._socket.settimeout(timeout)
            while len(found) < count:
                data, descriptors, flags, _ = socket.recv_fds(self._socket, 1, AT_ONCE)
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                    found.append(socket.socket(fileno=descriptor))
                if not data:
                    raise Broken("it has ended")
                if not descriptors or flags & socket.MSG_CTRUNC:
                    raise Broken("this process may not have so many descriptors; allow more with ulimit -n")
        except (OSError, Broken) as error:
            for sock in found:
                sock.close()
            raise error if isinstance(error, Broken) else Broken(_why(error)) from error
        for sock in found:
            sock.setblocking(False)
        return found

    def close(self) -> None:
        """Close this end, also under a thread that waits there."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return "it has ended" if isinstance(error, ConnectionError) else str(error.strerror or error)
