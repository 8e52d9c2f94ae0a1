"""What asyncio's selector believes to watch, what the kernel watches, and the sockets of this process.

Whoever closes a descriptor that the selector still has leaves an entry behind. The next socket with that number is
believed to be watched already, and nothing is ever heard of it: a test far away waits in vain.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

_WATCHED = re.compile(r"^tfd:\s*(\d+) events:\s*([0-9a-f]+)", re.MULTILINE)
_IN, _OUT = 1, 4
#: So many sockets are shown.
_SHOWN = 30


def _selector() -> Any:
    """The selector of the reactor's loop; None where the reactor has none, or no epoll below it."""
    from twisted.internet import reactor

    loop = getattr(reactor, "_asyncioEventloop", None)
    selector = getattr(loop, "_selector", None)
    return selector if hasattr(getattr(selector, "_selector", None), "fileno") else None


def _of_kernel(selector: Any) -> dict[int, int] | None:
    """The events for which the kernel watches each descriptor; None where it does not tell."""
    with suppress(OSError):
        text = Path(f"/proc/self/fdinfo/{selector._selector.fileno()}").read_text()
        return {int(fd): int(events, 16) & (_IN | _OUT) for fd, events in _WATCHED.findall(text)}
    return None


def stale() -> list[int]:
    """Descriptors that the selector believes to watch, and the kernel does not, or not for the same events."""
    selector = _selector()
    kernel = None if selector is None else _of_kernel(selector)
    if kernel is None:
        return []
    wanted = {
        fd: (_IN if key.events & 1 else 0) | (_OUT if key.events & 2 else 0) for fd, key in selector._fd_to_key.items()
    }
    return [fd for fd, events in wanted.items() if kernel.get(fd) != events]


def forget(fd: int) -> str:
    """Remove a descriptor from the selector, and return who had it."""
    selector = _selector()
    key = selector._fd_to_key[fd]
    selector.unregister(fd)
    return f"descriptor {fd}, events {key.events}, {key.data!r}"


def sockets() -> str:
    """This thread's network, and the TCP sockets of this process: what may explain a connection that never comes about.

    The columns are local and remote address, state, and queues, as in ``/proc/net/tcp``.
    """
    lines = []
    with suppress(OSError):
        lines.append(f"network {Path('/proc/thread-self/ns/net').readlink()}, stale descriptors {stale()}")
        own: dict[str, str] = {}
        for path in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                own[str(path.readlink())] = path.name
        for row in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]:
            fields = row.split()
            if (fd := own.get(f"socket:[{fields[9]}]")) is not None:
                lines.append(f"descriptor {fd}: {' '.join(fields[1:5])}")
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"and {len(lines) - _SHOWN} more"]
    return "\n".join(lines)
