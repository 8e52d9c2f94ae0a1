"""What a process leaves with systemd when it is told to stop, and finds there if it is only started again.

systemd keeps descriptors for a service (``FDSTORE=1`` of ``sd_notify(3)``, ``FileDescriptorStoreMax=``), and passes
them to the next process behind those of its sockets (``sd_listen_fds(3)``). Whoever connects meanwhile waits in the
backlog of the listening sockets. With them there is a file in memory: JSON that says what each of them is for, and the
state.
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
#: The name that all descriptors have.
NAME = "rtunnel"
#: Seconds that systemd has to close its copies.
PATIENCE = 5.0

_log = Logger()


def put(service: str, handed: Sequence[Handed], state: Mapping[str, Any]) -> None:
    """Leave sockets with systemd, if this is one of its services.

    :param service: its name, such as ``rtunnel-server``.
    :param state: what the next process must know, as JSON has it.
    """
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


class FdStore:
    """What systemd has passed to this process."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

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
            self._descriptors = [number for number, name in zip(passed, names, strict=True) if name == NAME]
            others = [name for name in names if name != NAME]
            environ["LISTEN_FDNAMES"] = ":".join(others)
            if "LISTEN_FDS" in environ:
                environ["LISTEN_FDS"] = str(len(others))

    def take(self, service: str) -> Mapping[str, Any] | None:
        """Let the sockets be inherited, and return the state. Empty: it is of no use; None: nothing was left."""
        if not self._descriptors:
            return None
        # What is closed here must not stay open there.
        notify(f"FDSTOREREMOVE=1\nFDNAME={NAME}")
        wait_for_systemd(PATIENCE)
        sockets: dict[int, socket.socket] = {}
        content = b""
        for descriptor in self._descriptors:
            with suppress(OSError):
                status = os.fstat(descriptor)
                if stat.S_ISSOCK(status.st_mode):
                    os.set_inheritable(descriptor, False)
                    sockets[status.st_ino] = sock = socket.socket(fileno=descriptor)
                    sock.setblocking(False)
                else:
                    with os.fdopen(descriptor, "rb") as file:
                        file.seek(0)
                        content = file.read(LONGEST)
        try:
            left = json.loads(content)
            if (left["version"], left["service"]) != (VERSION, service):
                raise ValueError("another version or service has left it")
            names = {int(number): str(name) for number, name in left["sockets"].items()}
            state: Mapping[str, Any] = left["state"]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            _log.warn("what systemd has kept cannot be used, and is closed: {why}", why=error)
            names, state = {}, {}
        for number, sock in sockets.items():
            if number in names:
                inheritance.fill([names[number]], [sock])
            else:
                sock.close()
        return state


#: That of this process.
fdstore = FdStore()
