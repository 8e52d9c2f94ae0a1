"""The new process's side of an upgrade: the process whose place it takes."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from rtunnel import __version__
from rtunnel.errors import ConfigError, StartupError
from rtunnel.options.upgrade.channel import VARIABLE, VERSION, Broken, Channel
from rtunnel.options.upgrade.fdstore import fdstore
from rtunnel.relay.inheritance import inheritance

#: Seconds that the predecessor has to answer; it may wait for its visitors before it says ``go``.
PATIENCE = 60.0


class Predecessor:
    """The process whose place this one takes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def meet(self, service: str) -> Mapping[str, Any]:
        """Say who this is, and take what the predecessor leaves. Return its state.

        :param service: the name of this service, such as ``rtunnel-server``.
        :raises StartupError: it leaves nothing.
        """
        try:
            hello = {"hand_over": VERSION, "release": __version__, "service": service, "pid": os.getpid()}
            self._channel.send(hello)
            left = self._channel.receive(PATIENCE)
            names = [str(name) for name in left["sockets"]]
            inheritance.fill(names, self._channel.receive_sockets(len(names), PATIENCE))
            state: Mapping[str, Any] = left["state"]
        except (Broken, KeyError, TypeError) as error:
            raise StartupError(f"the process whose place this one was to take leaves nothing: {error}") from error
        return state

    def wait_for_go(self) -> None:
        """Say that this process is ready, and wait until it may begin.

        :raises StartupError: it may not.
        """
        try:
            self._channel.send({"ready": True})
            self._channel.receive(PATIENCE)
        except Broken as error:
            raise StartupError(f"the process whose place this one was to take goes on: {error}") from error

    def started(self) -> None:
        """Say that this process does its work now. The predecessor may go, or may be gone."""
        self._say({"started": True})
        self._channel.close()

    def failed(self, why: str) -> None:
        """Say why nothing comes of it."""
        self._say({"failed": why})

    def _say(self, message: dict[str, Any]) -> None:
        with suppress(Broken):
            self._channel.send(message)


class _Found:
    """The predecessor of this process, if there is one."""

    now: Predecessor | None = None


def find(environ: MutableMapping[str, str]) -> None:
    """Look whether this process takes the place of another.

    :raises ConfigError: the environment says so, and it is not true.
    """
    fdstore.find(environ)
    named = environ.pop(VARIABLE, None)
    if named is None:
        return
    try:
        sock = socket.socket(fileno=int(named))
        if sock.family != socket.AF_UNIX:
            sock.detach()
            raise ValueError(named)
    except (ValueError, OSError):
        raise ConfigError(f"{VARIABLE} is for 'rtunnel upgrade' only; unset it") from None
    sock.set_inheritable(False)
    _Found.now = Predecessor(Channel(sock))


def current() -> Predecessor | None:
    """Return the predecessor of this process; None: there is none."""
    return _Found.now


def failed(why: str) -> None:
    """Tell the predecessor, if there is one, why nothing comes of it."""
    if _Found.now is not None:
        _Found.now.failed(why)
