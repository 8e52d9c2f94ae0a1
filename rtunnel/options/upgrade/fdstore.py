"""What a process leaves with systemd when it is told to stop, and finds there if it is only started again.

systemd keeps descriptors for a service (``FDSTORE=1`` of ``sd_notify(3)``, ``FileDescriptorStoreMax=``), and passes
them to the next process behind those of its sockets (``sd_listen_fds(3)``). Whoever connects meanwhile waits in the
backlog of the listening sockets. With them there is a file in memory: JSON that says what each of them is for, and the
state. It is so with visitors too, whose sockets have a name of their own there.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.logger import Logger
from twisted.python.systemd import ListenFDs

from rtunnel.options.upgrade.channel import AT_ONCE, LONGEST
from rtunnel.options.upgrade.notify import notify, wait_for_systemd
from rtunnel.relay.inheritance import Handed, inheritance

#: The version of what is left. No other is taken.
VERSION = 1
#: The same of what is left of visitors.
VISITORS_VERSION = 1
#: The name that all descriptors have; those of visitors; and one that is only given to see what becomes of it.
NAME, VISITORS, PROBE = "rtunnel", "rt", "rtunnel-probe"
#: The most descriptors of either kind. systemd passes their names in one variable, and Linux none of 128 KiB: then
#: nothing could be started.
MOST_LISTENING, MOST_OF_VISITORS = 8_000, 20_000
#: Seconds that systemd has to close its copies.
PATIENCE = 5.0

_log = Logger()


def put(service: str, handed: Sequence[Handed], state: Mapping[str, Any]) -> None:
    """Leave sockets with systemd, if this is one of its services.

    :param service: its name, such as ``rtunnel-server``.
    :param state: what the next process must know, as JSON has it.
    """
    handed = handed[:MOST_LISTENING]
    # The number of a socket stays the same in any process.
    sockets = {os.fstat(each.descriptor).st_ino: each.name for each in handed}
    left = {"version": VERSION, "service": service, "sockets": sockets, "state": state}
    with os.fdopen(os.memfd_create(NAME), "wb", buffering=0) as file:
        file.write(json.dumps(left).encode())
        descriptors = [file.fileno(), *(each.descriptor for each in handed)]
        for start in range(0, len(descriptors), AT_ONCE):
            # It would drop a socket that nobody listens on at the moment.
            notify(f"FDSTORE=1\nFDNAME={NAME}\nFDPOLL=0", descriptors[start : start + AT_ONCE])
    for each in handed:
        each.hand_over()


def is_kept() -> bool:
    """Return whether systemd keeps anything for this service: whether ``FileDescriptorStoreMax=`` leaves room."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            notify(f"FDSTORE=1\nFDNAME={PROBE}\nFDPOLL=0", [theirs.fileno()])
        wait_for_systemd(PATIENCE)
        ours.setblocking(False)
        try:
            ours.recv(1)
        except BlockingIOError:
            notify(f"FDSTOREREMOVE=1\nFDNAME={PROBE}")
            return True
        except OSError:
            pass
    return False  # its other end is closed


class VisitorStore:
    """Leaves visitors with systemd; see :class:`~rtunnel.reverse.stored.keeper.IStore`.

    :param service: its name, such as ``rtunnel-server``.
    :param others: how many descriptors were left already.
    """

    def __init__(self, service: str, others: int, environ: Mapping[str, str] = os.environ) -> None:
        self._service = service
        # systemd tells its limit since version 254. What is beyond it would be closed.
        limit = environ.get("FDSTORE", "")
        self.room = MOST_OF_VISITORS
        if limit.isdecimal():
            self.room = min(self.room, int(limit) - others - 2)

    def put(self, state: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """See :class:`IStore`. What says what they are goes first, and is worth nothing without them."""
        left = {"version": VISITORS_VERSION, "service": self._service, "state": state}
        with os.fdopen(os.memfd_create(VISITORS), "wb", buffering=0) as file:
            view = memoryview(json.dumps(left).encode())
            while view:
                view = view[file.write(view) :]
            numbers = [file.fileno(), *descriptors]
            for start in range(0, len(numbers), AT_ONCE):
                notify(f"FDSTORE=1\nFDNAME={VISITORS}\nFDPOLL=0", numbers[start : start + AT_ONCE])
        # It must have them before this process has ended.
        wait_for_systemd(PATIENCE)


class FdStore:
    """What systemd has passed to this process."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._visitors: list[int] = []

    def find(self, environ: MutableMapping[str, str]) -> None:
        """Look for it, and leave to Twisted what belongs to sockets of systemd, which come first."""
        if "twisted.internet.endpoints" in sys.modules:
            # It has taken what says that they are for this process.
            from twisted.internet.endpoints import _SystemdParser

            passed = _SystemdParser._sddaemon.inheritedDescriptors()
        else:
            passed = ListenFDs.fromEnvironment(dict(environ)).inheritedDescriptors()
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        if len(names) == len(passed):
            named = list(zip(passed, names, strict=True))
            # A probe is there if the last process was killed at the wrong moment.
            self._descriptors = [number for number, name in named if name in (NAME, PROBE)]
            self._visitors = [number for number, name in named if name == VISITORS]
            others = [name for name in names if name not in (NAME, VISITORS, PROBE)]
            environ["LISTEN_FDNAMES"] = ":".join(others)
            if "LISTEN_FDS" in environ:
                environ["LISTEN_FDS"] = str(len(others))

    def take(self, service: str) -> Mapping[str, Any] | None:
        """Let the sockets be inherited, and return the state. Empty: it is of no use; None: nothing was left."""
        if not (self._descriptors or self._visitors):
            return None
        # What is closed here must not stay open there.
        for name in (NAME, VISITORS, PROBE):
            notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
        wait_for_systemd(PATIENCE)
        sockets, contents = _sort(self._descriptors)
        try:
            left = _read(contents[-1] if contents else b"", service, VERSION)
            names = {int(number): str(name) for number, name in left["sockets"].items()}
            state: Mapping[str, Any] = left["state"]
        except UNUSABLE as error:
            _log.warn("what systemd has kept cannot be used, and is closed: {why}", why=error)
            names, state = {}, {}
        for number, sock in sockets.items():
            if number in names:
                inheritance.fill([names[number]], [sock])
            else:
                sock.close()
        return state

    def take_visitors(self, service: str) -> tuple[list[Any], dict[int, socket.socket]]:
        """Return what was left of visitors: the states, and all sockets by their numbers. Call :meth:`take` before.

        Nobody else gets the states, even if systemd has not heard that it is to forget them: with the keys and counters
        in them, a second process would seal other records in the same way as this one.
        """
        descriptors, self._visitors = self._visitors, []
        sockets, contents = _sort(descriptors, empties=True)
        states = []
        for content in contents:
            try:
                states.append(_read(content, service, VISITORS_VERSION)["state"])
            except UNUSABLE as error:
                _log.warn("the visitors whom systemd has kept cannot go on, and are closed: {why}", why=error)
        return states, sockets


#: What reading it can raise.
UNUSABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def _sort(descriptors: Sequence[int], *, empties: bool = False) -> tuple[dict[int, socket.socket], list[bytes]]:
    """Return the sockets among them, by their numbers, and what is in the files.

    :param empties: nothing is in the files any more afterwards.
    """
    sockets: dict[int, socket.socket] = {}
    contents: list[bytes] = []
    for descriptor in descriptors:
        with suppress(OSError):
            status = os.fstat(descriptor)
            if not stat.S_ISSOCK(status.st_mode):
                with os.fdopen(descriptor, "r+b" if empties else "rb") as file:
                    file.seek(0)
                    content = file.read(LONGEST)
                    if empties:
                        file.truncate(0)
                    contents.append(content)
                continue
            sock = socket.socket(fileno=descriptor)
            sock.set_inheritable(False)
            sock.setblocking(False)
            sockets[status.st_ino] = sock
    return sockets, contents


def _read(content: bytes, service: str, version: int) -> dict[str, Any]:
    left: dict[str, Any] = json.loads(content)
    if (left["version"], left["service"]) != (version, service):
        raise ValueError("another version or service has left it")
    return left


#: That of this process.
fdstore = FdStore()
