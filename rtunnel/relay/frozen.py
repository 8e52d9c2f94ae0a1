"""A relay that another process goes on with: what waits, what has ended, and what was counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtunnel.relay.local_socket import LocalSocket

#: The most that may wait for one socket, in bytes: what a record and a pipe hold, and some more.
MOST_WAITING = 4 << 20


def can_freeze(local: LocalSocket) -> bool:
    """Return whether another process could go on with this: it works, and there is something to do."""
    return not (
        not local.is_sound
        or (local.far is None and not local.waiting)
        or local.waiting > MOST_WAITING
        # One end of a pair, whose other end is in this process too.
        or hasattr(local.socket, "is_broken_off")
    )


def thaw(
    poller: Any,
    sock: Any,
    far: Any,
    on_end: Callable[[LocalSocket], None],
    kept: Callable[[int], None],
    **state: Any,
) -> LocalSocket:
    """Return a relay that goes on where :meth:`LocalSocket.freeze` was called. It does not read yet.

    :param far: the data connection, which must not read while something waits here; None: the stream is over.
    :param state: what was returned.
    """
    local = LocalSocket(poller, sock, far, on_end, kept)
    local.thaw(**state)
    return local
