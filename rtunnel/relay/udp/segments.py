"""What Linux offers to UDP sockets that carry many packets, where the system has it.

``UDP_SEGMENT`` cuts one ``sendmsg`` into packets of equal size, ``UDP_GRO`` hands packets that came together to one
``recvmsg`` (udp(7)), and ``IP_MTU_DISCOVER`` decides who may fragment (ip(7)). Not every Python names them.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from struct import Struct

#: How many packets, and how many bytes of them, one call takes.
MAX_SEGMENTS, MAX_BYTES = 64, 65_000
#: Packets of so many bytes are cut up nowhere, so it does not matter for them who may fragment.
SMALL = 512
#: Room for what tells the size of packets that came together, in bytes.
ROOM = 64

_IS_LINUX = sys.platform == "linux"
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_SEGMENT, _SIZE = Struct("@H"), Struct("@i")
_MTU_DISCOVER = {
    socket.AF_INET: (socket.IPPROTO_IP, getattr(socket, "IP_MTU_DISCOVER", 10)),
    socket.AF_INET6: (getattr(socket, "IPPROTO_IPV6", 41), getattr(socket, "IPV6_MTU_DISCOVER", 23)),
}
#: Routers may fragment; or nobody does, and the program finds out what gets through.
_DONT, _PROBE = 0, 3


def knows_segments(handle: socket.socket) -> bool:
    """Return whether packets can be sent together. An old kernel would ignore the request, and send one large one."""
    return _IS_LINUX and _set(handle, _SOL_UDP, _UDP_SEGMENT, 0)


def receive_together(handle: socket.socket) -> None:
    """Let packets that came together be read together."""
    if _IS_LINUX:
        _set(handle, _SOL_UDP, _UDP_GRO, 1)


def let_fragment(handle: socket.socket, fragments: bool) -> None:
    """Let routers fragment what is too large for a link; or let this machine refuse it, and routers drop it."""
    if _IS_LINUX:
        _set(handle, *_MTU_DISCOVER[socket.AddressFamily(handle.family)], _DONT if fragments else _PROBE)


def segment_control(size: int) -> tuple[int, int, bytes]:
    """Return the ancillary datum for ``sendmsg`` that has packets of *size* bytes cut."""
    return _SOL_UDP, _UDP_SEGMENT, _SEGMENT.pack(size)


def segment_size(control: Sequence[tuple[int, int, bytes]], size: int) -> int:
    """Return the size of each packet but the last of those that ``recvmsg`` has given together.

    :param control: its ancillary data.
    :param size: how many bytes it gave, which is the answer if it gave one packet.
    """
    for level, kind, value in control:
        if level == _SOL_UDP and kind == _UDP_GRO and len(value) >= _SIZE.size:
            return int(_SIZE.unpack_from(value)[0])
    return size


def _set(handle: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        handle.setsockopt(level, option, value)
    except OSError:
        return False
    return True
