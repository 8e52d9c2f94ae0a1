"""A relay that another process goes on with: what waits, what has ended, and what was counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rtunnel.relay.local_socket import LocalSocket
from rtunnel.relay.polled_socket import PolledSocket
from rtunnel.relay.sockets import SEND_ON_CLOSE

#: The most that may wait for one socket, in bytes: what a record and a pipe hold, and some more.
MOST_WAITING = 4 << 20


def take_waiting(polled: PolledSocket) -> bytes:
    """Return what waits for a socket, also in a pipe. It does not wait any more."""
    pieces = [bytes(polled._pending)]
    pipe = polled._pipe
    while pipe is not None and pipe.count:
        piece = os.read(pipe.read_end, pipe.count)
        pipe.count -= len(piece)
        pieces.append(piece)
    pieces.append(polled._behind)
    polled._drop()
    return b"".join(pieces)


def detach(polled: PolledSocket) -> None:
    """Take a socket out of the poller. Nothing is read or written here any more. It is for the caller to close it."""
    # As another process has the socket too, closing it does not take it out of the epoll.
    polled._watch_bytes(False)
    polled._watch_room(False)
    polled._poller.forget(polled)
    polled._number = -1


def can_freeze(local: LocalSocket) -> bool:
    """Return whether another process could go on with this: it works, and there is something to do."""
    return not (
        local.fileno() < 0
        or (local.far is None and not local.waiting)
        or local.is_broken
        or local._was_reset
        or local._last_bytes is not None
        or local.waiting > MOST_WAITING
        # One end of a pair, whose other end is in this process too.
        or hasattr(local.socket, "is_broken_off")
    )


def freeze(local: LocalSocket) -> dict[str, Any]:
    """Return what another process needs to go on, but for the descriptor. This one is out of use afterwards."""
    state = {
        "ending": local._ending,
        "finished": local._finished,
        "ended": local._ended,
        "received": local.bytes_received,
        "sent": local.bytes_sent,
    }
    waiting = take_waiting(local)
    detach(local)
    local.far = None
    return {**state, "waiting": waiting}


def thaw(
    poller: Any,
    sock: Any,
    far: Any,
    on_end: Callable[[LocalSocket], None],
    kept: Callable[[int], None],
    *,
    waiting: bytes,
    ending: bool,
    finished: bool,
    ended: bool,
    received: int,
    sent: int,
) -> LocalSocket:
    """Return a relay that goes on where :func:`freeze` was called. It does not read yet.

    :param far: the data connection, which must not read while something waits here; None: the stream is over.
    """
    local = LocalSocket(poller, sock, far, on_end, kept)
    local.bytes_received, local.bytes_sent = received, sent
    local._ending, local._finished, local._ended = ending, finished, ended
    if finished:
        local._set_linger(SEND_ON_CLOSE)
    if waiting:
        local._append(waiting)
        if far is not None:
            far.stop_reading()
    return local


def start(local: LocalSocket, *, has_room: bool) -> None:
    """Let a relay go on.

    :param has_room: the far side takes bytes now.
    """
    if has_room and not local._ended:
        local.start()
    if local._ending and not local._writing:
        local._half_close()
