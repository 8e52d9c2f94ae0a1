"""The old process's side of an upgrade: it starts its successor, hands over, and leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from rtunnel import __version__
from rtunnel.errors import ConfigError
from rtunnel.options.upgrade.channel import VARIABLE, VERSION, Broken, Channel
from rtunnel.options.upgrade.first import Children, execute, is_first
from rtunnel.options.upgrade.notify import notify
from rtunnel.options.upgrade.succession import ISuccession
from rtunnel.relay.inheritance import Handed

#: Seconds that a new process has until it has read its settings, until it listens, and until it does its work: for a
#: client, until it has its link.
HELLO, READY, STARTED = 30.0, 30.0, 20.0
#: Seconds for which a process that has failed may take to end by itself.
LAST_WORDS = 3.0


#: How often the first process of a container looks whether its children have ended, in seconds.
LOOK_EVERY = 1.0


class Failed(ConfigError):
    """Nothing has come of an upgrade. The message says why."""


class Upgrade:
    """Lets a new process take the place of this one.

    :param service: its name, such as ``rtunnel-server``.
    :param succession: the service.
    :param ports: yields sockets beside those of *succession*.
    :param twistd: the options of ``twistd``; empty without it.
    :param directory: where this process was started.
    :param leave: called once there is a successor: lets this process end when its visitors have gone, or after so many
        seconds.
    :ivar successor: the id of the process that has taken over; None: none has.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        service: str,
        succession: ISuccession,
        ports: Callable[[], Iterator[Handed]],
        twistd: MutableMapping[str, Any],
        directory: str,
        leave: Callable[[int, float], None],
    ) -> None:
        self._reactor = reactor
        self._service = service
        self._succession = succession
        self._ports = ports
        self._twistd = twistd
        self._directory = directory
        self._leave = leave
        self._channel: Channel | None = None
        # The one that is being started, and the one that has taken over.
        self._process: subprocess.Popen[bytes] | None = None
        self._successor: subprocess.Popen[bytes] | None = None
        self._pids: set[int] = set()
        self._handed: list[Handed] = []
        self._is_paused = False
        self._said: BaseException | None = None
        self.successor: int | None = None

    def has_said(self, error: object) -> bool:
        """Return whether the log says why nothing has come of an upgrade."""
        return error is self._said

    @property
    def is_under_way(self) -> bool:
        """Whether a successor is being started."""
        return self._channel is not None

    async def upgrade(self, within: float = inf) -> dict[str, Any]:
        """Let the installed version take this process's place. Return its process id and release.

        :param within: seconds that visitors of this process have to finish, from then on.
        :raises ConfigError: nothing has come of it, and this process goes on as ever.
        """
        if why := self._why_not():
            raise ConfigError(f"no upgrade: {why}")
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise ConfigError(f"no upgrade: {error.strerror or error}") from error
        self._channel = channel = Channel(ours)
        pid_file = self._set_pid_file_aside()
        try:
            try:
                with theirs:
                    self._start(theirs)
                pid, release = await self._hand_over(channel)
            except OSError as error:
                raise Failed(f"the new process cannot be started: {error.strerror or error}") from error
            except Broken as error:
                raise Failed(f"the new process: {await self._why_broken(error)}") from error
        except BaseException as error:
            self._end_successor()
            if self._is_paused:
                self._is_paused = False
                self._succession.resume()
                for each in self._handed:
                    each.resume()
            self._put_back(pid_file)
            self._channel = None
            channel.close()
            self.log.warn("upgrade: {why}; this process goes on as ever", why=error)
            self._said = error
            raise
        self._successor, self._process = self._process, None
        for each in self._handed:
            each.hand_over()
        self._succession.hand_over()
        self._twistd["pidfile"] = ""  # it is the successor's
        notify(f"MAINPID={pid}")
        self.log.info(
            "upgrade: process {pid} (release {release}) takes over; this one lets its visitors finish, and ends",
            pid=pid,
            release=release,
        )
        self.successor = pid
        if is_first():
            self._stay()
        self._leave(pid, within)
        channel.close()
        return {"pid": pid, "release": release}

    def _stay(self) -> None:
        """The container ends with this process, so let it be the last one; see :mod:`rtunnel.options.upgrade.first`."""
        children = Children()

        def look() -> None:
            if children.reap(wait=False):
                self._reactor.callLater(LOOK_EVERY, look)
            else:
                self.log.warn("no process is left that has taken over; this one ends too")
                os.kill(os.getpid(), signal.SIGTERM)

        look()
        self._reactor.addSystemEventTrigger("after", "shutdown", lambda: execute(children.code))

    def _why_not(self) -> str:
        if self.is_under_way:
            return "another one is under way"
        if self._twistd.get("chroot"):
            return "this process cannot see what is installed (twistd --chroot); restart it"
        if self._twistd.get("uid") is not None or self._twistd.get("gid") is not None:
            return "this process has given up the privileges it was started with (twistd --uid, --gid); restart it"
        return self._succession.why_not()

    def _start(self, theirs: socket.socket) -> None:
        argv = [sys.executable, *sys.orig_argv[1:]]
        env = {**os.environ, VARIABLE: str(theirs.fileno())}
        if names := os.environ.get("LISTEN_FDNAMES"):
            # Without what Twisted has taken from the environment, an address of systemd's would not be valid. What it
            # stands for comes from us.
            env["LISTEN_FDS"] = str(len(names.split(":")))
            argv = ["/bin/sh", "-c", 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"', "sh", *argv]
        self._process = subprocess.Popen(
            argv,
            env=env,
            cwd=self._directory or None,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        self._pids = {self._process.pid}
        self.log.info("upgrade: process {pid} starts, to take the place of this one", pid=self._process.pid)

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work, *arguments)

    async def _next(self, channel: Channel, what: str, seconds: float) -> dict[str, Any]:
        message: dict[str, Any] = await self._in_thread(channel.receive, seconds)
        if "failed" in message:
            raise Failed(f"the new process cannot start: {message['failed']}")
        if what not in message:
            raise Broken("it says what makes no sense")
        return message

    async def _hand_over(self, channel: Channel) -> tuple[int, str]:
        hello = await self._next(channel, "hand_over", HELLO)
        pid, release, service = hello.get("pid"), str(hello.get("release")), hello.get("service")
        if hello["hand_over"] != VERSION or not isinstance(pid, int):
            raise Failed(
                f"release {release} speaks version {hello['hand_over']} of the hand-over, and this process, release "
                f"{__version__}, version {VERSION}; restart it"
            )
        if service != self._service:
            raise Failed(f"the new process is {service}, and this one {self._service}; restart it")
        self._pids.add(pid)
        handed = self._handed = [*self._succession.handed(), *self._ports(), *self._succession.beside()]
        left = {"release": __version__, "sockets": [each.name for each in handed], "state": self._succession.state()}
        await self._in_thread(channel.send, left, [each.descriptor for each in handed])
        await self._next(channel, "ready", READY)
        self._is_paused = True
        await self._succession.settle()
        if self._process is None:
            raise Failed("this process stops")
        for each in handed:
            each.pause()
        self._succession.pause()
        await self._in_thread(channel.send, {"go": True})
        await self._next(channel, "started", STARTED)
        return pid, release

    async def _why_broken(self, error: Broken) -> str:
        process = self._process
        if process is None:
            return "it is not needed any more, as this process stops"
        with suppress(subprocess.TimeoutExpired):
            code = await self._in_thread(process.wait, LAST_WORDS)
            return f"it has ended with exit code {code}; the log, or standard error, has what it said"
        return str(error)

    def _end_successor(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.kill()
            process.wait()
        for pid in self._pids - {process.pid}:  # a daemon's
            with suppress(OSError):
                os.kill(pid, 9)

    def stop(self) -> None:
        """This process stops: end a successor that does not do its work yet."""
        if self._channel is not None and self._process is not None:
            self._end_successor()
            self._channel.close()

    def _set_pid_file_aside(self) -> Path | None:
        name = self._twistd.get("pidfile")
        path = Path(name).absolute() if name else None
        if path is not None:
            # The new process writes its own, and refuses to start beside another's.
            with suppress(OSError):
                path.unlink()
        return path

    def _put_back(self, path: Path | None) -> None:
        if path is not None:
            with suppress(OSError):
                path.write_text(str(os.getpid()))
