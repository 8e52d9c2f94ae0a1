"""Starts ``twistd`` and ``rtunnel`` without waiting for their imports.

Half a second to a second of every start of ``twistd`` goes into importing Twisted, Autobahn and aiortc, and the suite
starts it some five hundred times. So one process imports all of it once, and forks for each ``twistd``. A fork runs
``twistd`` itself (or ``rtunnel``, by the name of the program), with its own arguments, environment, directory and
output, and ends as any interpreter does.

Run as a program, this file is the process that forks. A test process holds a :class:`ForkServer`, and a
:class:`Forked` for each ``twistd``, with the methods of :class:`subprocess.Popen` that the harness calls. It needs
pidfds, which Linux has; see :func:`available`.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import queue
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.patience import PATIENCE

MODULES = (
    "twisted.scripts.twistd",
    "rtunnel.options.command",
    "rtunnel.options.pki.command",
    "rtunnel.options.service",
    "rtunnel.options.plugins.rtunnel_server",
    "rtunnel.options.plugins.rtunnel_client",
    "rtunnel.options.plugins.rtc_signal",
    "rtunnel.options.plugins.rtc_host",
    "rtunnel.options.plugins.rtc_client",
    "rtunnel.reverse.server.service",
    "rtunnel.reverse.client.service",
    "rtunnel.rtc.signaling.server",
    "rtunnel.rtc.host",
    "rtunnel.rtc.client",
)
"""What is imported ahead of time. None of it installs a reactor."""

MESSAGE = 1 << 17
"""Bytes that one request may have; most of it is the environment."""


# From sched.h and sys/mount.h; there is no os.setns before Python 3.12.
_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def available() -> bool:
    """Whether this system has what a fork server needs."""
    return hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")


class Forked:
    """One ``twistd`` that a :class:`ForkServer` has started; ``stdout`` is what it prints on either stream."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = None
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._ended = threading.Event()

    def ended(self, code: int) -> None:
        """The server has seen the end of it."""
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass  # It has ended.

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self._pidfd)


class ForkServer:
    """The process that forks. When this process ends, however it does, that one ends too, and kills what it started."""

    def __init__(self) -> None:
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            argv = [sys.executable, __file__, str(its.fileno())]
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            self._process = subprocess.Popen(
                argv, cwd="/", env=environment | {"PYTHONUNBUFFERED": "1"}, pass_fds=(its.fileno(),)
            )
        self._lock = threading.Lock()
        self._started: queue.SimpleQueue[Forked] = queue.SimpleQueue()
        self._running: dict[int, Forked] = {}
        threading.Thread(target=self._listen, name="fork server", daemon=True).start()

    def start(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        network: str = "",
        files: Mapping[str, str] | None = None,
    ) -> Forked:
        """Start ``twistd``, with the limits and the signal handling that a child of this process would have.

        :param network: the file of the network namespace in which it runs, if that is another; this needs root.
        :param files: files that it sees in the place of others, such as ``/etc/hosts``; this needs root.
        """
        request = {
            "argv": list(argv),
            "cwd": str(cwd),
            "network": network,
            "files": dict(files or {}),
            "env": dict(env),
            "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
            "ignores_sigint": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        }
        message = json.dumps(request).encode()
        assert len(message) < MESSAGE, "the environment is too large"
        output, its_output = os.pipe()
        with self._lock:
            try:
                socket.send_fds(self._socket, [message], [its_output])
            finally:
                os.close(its_output)
            forked = self._started.get(timeout=PATIENCE)
        forked.stdout = os.fdopen(output, "rb")
        return forked

    def _listen(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE, 1)
            if not data:
                return
            message: dict[str, int] = json.loads(data)
            pid = message["pid"]
            if "code" in message:
                self._running.pop(pid).ended(message["code"])
            else:
                self._running[pid] = forked = Forked(pid, descriptors[0])
                self._started.put(forked)


@cache
def fork_server() -> ForkServer:
    """The one of this process, which is started when it is first needed."""
    return ForkServer()


# What it runs


def serve(connection: socket.socket) -> bool:
    """Fork for each request, and report each end.

    :returns: in a fork, true: it is ``twistd`` from now on. In the server, false, once the tests have gone.
    """
    running: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not connection:
                    pid = running.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    connection.send(json.dumps({"pid": pid, "code": code}).encode())
                    continue
                data, descriptors, _, _ = socket.recv_fds(connection, MESSAGE, 1)
                if not data:
                    for pidfd in running:
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    return False
                pid = os.fork()
                if not pid:
                    for pidfd in running:
                        os.close(pidfd)
                    connection.close()
                    become(json.loads(data), descriptors[0])
                    return True
                os.close(descriptors[0])
                pidfd = os.pidfd_open(pid)
                running[pidfd] = pid
                selector.register(pidfd, selectors.EVENT_READ)
                socket.send_fds(connection, [json.dumps({"pid": pid}).encode()], [pidfd])


def become(request: dict[str, Any], output: int) -> None:
    """Take the arguments, environment, directory, limits and output of a ``twistd`` that is about to start."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, number)
    os.close(nothing)
    os.close(output)
    resource.setrlimit(resource.RLIMIT_NOFILE, tuple(request["descriptors"]))
    signal.signal(signal.SIGINT, signal.SIG_IGN if request["ignores_sigint"] else signal.default_int_handler)
    if request["network"]:
        with Path(request["network"]).open() as network:
            _call(_libc.setns(network.fileno(), _CLONE_NEWNET))
    if request["files"]:
        _call(_libc.unshare(_CLONE_NEWNS))
        _call(_libc.mount(b"none", b"/", None, _MS_PRIVATE | _MS_REC, None))
        for path, shown in request["files"].items():
            _call(_libc.mount(shown.encode(), path.encode(), None, _MS_BIND, None))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # The one that is there believes that it can seek.
    sys.stdout = os.fdopen(1, "w", buffering=1 if os.environ.get("PYTHONUNBUFFERED") else -1, closefd=False)
    sys.argv = request["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)


def main() -> None:
    """Import, and serve; in a fork, run ``twistd`` and end as it does."""
    for name in MODULES:
        importlib.import_module(name)
    assert "twisted.internet.reactor" not in sys.modules
    # What is there now stays as it is, so that forks do not copy it only because it was counted.
    gc.collect()
    gc.freeze()
    # What the shell or the tests do to end themselves is not for this process: it ends when they have.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if serve(socket.socket(fileno=int(sys.argv[1]))):
        if Path(sys.argv[0]).name == "rtunnel":
            from rtunnel.options.command import main as run_rtunnel

            sys.exit(run_rtunnel())
        from twisted.scripts.twistd import run

        sys.exit(run())


if __name__ == "__main__":
    main()
