"""Which of the running processes a command is for."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from twisted.python import usage

from rtunnel.coercions import seconds
from rtunnel.control.ask import NoAnswer, ask
from rtunnel.control.sockets import control_directory, running
from rtunnel.errors import ConfigError, RtunnelError
from rtunnel.options.verbs import Verb

#: The five plugins.
SERVICES = ("rtunnel-server", "rtunnel-client", "rtc-signal", "rtc-host", "rtc-client")


class NoProcess(RtunnelError):
    """No process, or more than one, is meant. The message says what to write."""


def pick(name: str, services: Collection[str] = SERVICES) -> Path:
    """Return the control socket of the process that is meant.

    :param name: the name of a service, or a process id; empty: the one that there is.
    :param services: those that can do what is asked for.
    :raises NoProcess: there is none, or there are several.
    """
    can = ", ".join(services)
    if name in SERVICES and name not in services:
        raise NoProcess(f"this is not for {name}, but for {can}")
    if name and not name.isdecimal() and name not in SERVICES:
        raise NoProcess(f"'{name}' is no name of a service; write one of {can}, or a process id")
    every = [each for each in running(os.environ) if name in ("", each[1], str(each[2]))]
    found = [each for each in every if each[1] in services]
    if not found and every and name:
        raise NoProcess(f"process {name} is {every[0][1]}; this is for {can}")
    if not found:
        what = f"process {name}" if name.isdecimal() else name
        what = what or ("rtunnel process" if services == SERVICES else " or ".join(services))
        raise NoProcess(
            f"no {what} with a control socket is running for this user (in {control_directory(os.environ)}); "
            "root sees those of all users"
        )
    if len(found) > 1:
        found = [each for each in found if not _has_successor(each[0])] or found
    if len(found) > 1:
        shown = ", ".join(f"{service} {pid}" for _, service, pid in found)
        raise NoProcess(f"{len(found)} processes are running: {shown}; add the number of the one that is meant")
    return found[0][0]


def process_name(*arguments: str) -> str:
    """Return the name of a process that was given; empty: none was.

    :raises usage.UsageError: there are several, or the name is empty, as that of a variable that is not set.
    """
    name, *others = arguments or ("",)
    if others:
        raise usage.UsageError(f"name one process; remove '{others[0]}'")
    if arguments and not name:
        raise usage.UsageError("the name of the process is empty; write a name or a process id, or leave it out")
    return name


class ProcessVerb(Verb):
    """A command for one of the running processes.

    :ivar name: see :func:`pick`.
    :ivar asked: what the options ask of it.
    """

    synopsis = "[options] [NAME|PID]"

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.asked: dict[str, Any] = {}

    def parseArgs(self, *arguments: str) -> None:
        """Take the name of a process.

        :raises usage.UsageError: see :func:`process_name`.
        """
        self.name = process_name(*arguments)

    def ask_for_seconds(self, name: str, value: str) -> None:
        """Ask for a time, which is written as in the settings.

        :raises usage.UsageError: it is none.
        """
        try:
            self.asked[name] = float(seconds(zero=True)(value))
        except ConfigError as error:
            raise usage.UsageError(str(error)) from error


def _has_successor(path: Path) -> bool:
    """Return whether another process has taken the place of this one, which only lets its visitors finish."""
    try:
        return ask(path).get("successor") is not None
    except NoAnswer:
        return False
