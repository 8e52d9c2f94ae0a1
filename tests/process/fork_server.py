"""Starts ``twistd`` and ``rtunnel`` without waiting for their imports.

Half a second to a second of every start of ``twistd`` goes into importing Twisted, Autobahn and aiortc, and the suite
starts it more than a thousand times. So one process imports all of it once, and forks for each ``twistd``. A fork runs
``twistd`` itself (or ``rtunnel``, by the name of the program), with its own arguments, environment, directory and
output. It ends as any interpreter does, but frees no memory before: that would cost as much as all of a short life.

Run as a program, this file is the process that forks. A test process holds a :class:`ForkServer`, and a
:class:`Forked` for each ``twistd``, with the methods of :class:`subprocess.Popen` that the harness calls. It needs
pidfds, which Linux has; see :func:`available`.

Where tests run in several workers, the process that forks is forked itself, once for each of them (:class:`Origin`).
"""

from __future__ import annotations

import atexit
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
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.patience import PATIENCE

MODULES = (
    "twisted.scripts.twistd",
    # What it imports besides, for its own plugins and reactors.
    "twisted.cred.strcred",
    "twisted.internet.asyncioreactor",
    "twisted.internet.epollreactor",
    "twisted.protocols.haproxy._wrapper",
    "twisted.trial.itrial",
    "twisted.words.iwords",
    "unittest",
    "rtunnel.options.command",
    "rtunnel.options.pki.command",
    "rtunnel.options.service",
    "rtunnel.options.doctor.command",
    "rtunnel.options.doctor.run",
    "rtunnel.doctor.tunnel",
    "rtunnel.doctor.udp_path",
    "rtunnel.options.status.command",
    "rich.console",
    "rich.table",
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
    "rtunnel.control.ask",
    "rtunnel.control.client",
    "rtunnel.control.rtc.host",
    "rtunnel.control.server",
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


@dataclass(frozen=True)
class Origin:
    """A process that forks, and how it is asked. It ends when nobody holds the other end of that socket any more."""

    socket: socket.socket
    pid: int
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def launch(cls) -> Origin:
        """Start one, which does the imports."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            argv = [sys.executable, __file__, str(its.fileno())]
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            process = subprocess.Popen(
                argv, cwd="/", env=environment | {"PYTHONUNBUFFERED": "1"}, pass_fds=(its.fileno(),)
            )
        return cls(ours, process.pid, process)

    def fork(self) -> Origin:
        """Another one, which has done its imports. Only who has not made this one a :class:`ForkServer` may ask."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            socket.send_fds(self.socket, [b"{}"], [its.fileno()])
            return Origin(ours, json.loads(self.socket.recv(MESSAGE))["pid"])

    def end(self) -> None:
        self.socket.close()
        if self.process:
            self.process.wait()


class ForkServer:
    """The process that forks. When this process ends, however it does, that one ends too, and kills what it started."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._socket = origin.socket
        self._lock = threading.Lock()
        self._started: queue.SimpleQueue[Forked | None] = queue.SimpleQueue()
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

        :param network: the file of the network namespace in which it runs, if not in that of this thread; needs root.
        :param files: files that it sees in the place of others, such as ``/etc/hosts``; this needs root.
        """
        output, its_output = os.pipe()
        try:
            with Path(os.devnull).open() as nothing:
                forked = self._fork(argv, cwd, env, (nothing.fileno(), its_output, its_output), network, files)
        finally:
            os.close(its_output)
        forked.stdout = os.fdopen(output, "rb")
        return forked

    def run(
        self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end. Unlike :meth:`start`, this keeps what it prints on either stream apart."""
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            its_input, our_input = os.pipe()
            try:
                forked = self._fork(argv, cwd, env, (its_input, stdout.fileno(), stderr.fileno()))
            finally:
                os.close(its_input)
            try:
                with os.fdopen(our_input, "wb") as pipe:
                    pipe.write(stdin)
            except BrokenPipeError:
                pass  # It did not want all of it.
            code = forked.wait(PATIENCE)
            outputs = [os.pread(file.fileno(), 1 << 24, 0) for file in (stdout, stderr)]
        return subprocess.CompletedProcess(argv, code, *outputs)

    def _fork(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        streams: Sequence[int],
        network: str = "",
        files: Mapping[str, str] | None = None,
    ) -> Forked:
        request = {
            "argv": list(argv),
            "cwd": str(cwd),
            "network": network or self._other_network(),
            "files": dict(files or {}),
            "env": dict(env),
            "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
            "ignores_sigint": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        }
        message = json.dumps(request).encode()
        assert len(message) < MESSAGE, "the environment is too large"
        with self._lock:
            socket.send_fds(self._socket, [message], streams)
            started = self._started.get(timeout=PATIENCE)
        assert started is not None, "the fork server has ended; it says why above"
        return started

    def _other_network(self) -> str:
        """The file of this thread's network namespace, which a child would have too; empty if the server has it."""
        ours = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
        theirs = f"/proc/{self._origin.pid}/ns/net"
        return "" if Path(ours).readlink() == Path(theirs).readlink() else ours

    def _listen(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE, 1)
            if not data:
                # It has ended; on its standard error it has said why.
                self._started.put(None)
                return
            message: dict[str, int] = json.loads(data)
            pid = message["pid"]
            if "code" in message:
                self._running.pop(pid).ended(message["code"])
            else:
                self._running[pid] = forked = Forked(pid, descriptors[0])
                self._started.put(forked)


_prepared: list[Origin] = []


def prepare(origin: Origin) -> None:
    """This one is for :func:`fork_server`, which starts none then."""
    _prepared.append(origin)


@cache
def fork_server() -> ForkServer:
    """The one of this process, which is started when it is first needed."""
    return ForkServer(_prepared.pop() if _prepared else Origin.launch())


# What it runs


def serve(connection: socket.socket) -> bool:
    """Fork for each request, and report each end. A request that says nothing asks for another server, at the socket
    that comes with it, which ends by itself.

    :returns: in a fork, true: it is ``twistd`` from now on. In the server, false, once the tests have gone.
    """
    running: dict[int, int] = {}
    others: set[int] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not connection:
                    pid = running.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    if key.fd in others:
                        others.remove(key.fd)
                    else:
                        connection.send(json.dumps({"pid": pid, "code": code}).encode())
                    continue
                data, streams, _, _ = socket.recv_fds(connection, MESSAGE, 3)
                if not data:
                    for pidfd in running.keys() - others:
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    return False
                request = json.loads(data)
                pid = os.fork()
                if not pid:
                    for pidfd in running:
                        os.close(pidfd)
                    connection.close()
                    if not request:
                        return serve(socket.socket(fileno=streams[0]))
                    become(request, streams)
                    return True
                for stream in streams:
                    os.close(stream)
                pidfd = os.pidfd_open(pid)
                running[pidfd] = pid
                selector.register(pidfd, selectors.EVENT_READ)
                if not request:
                    others.add(pidfd)
                    connection.send(json.dumps({"pid": pid}).encode())
                    continue
                socket.send_fds(connection, [json.dumps({"pid": pid}).encode()], [pidfd])


def become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Take the arguments, environment, directory, limits and streams of a ``twistd`` that is about to start."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
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
    # What an upgrade starts again.
    sys.orig_argv = [sys.executable, *sys.argv]
    # As an interpreter has it: the program's folder, PYTHONPATH, and the rest.
    more = request["env"].get("PYTHONPATH", "")
    sys.path[:1] = [str(Path(sys.argv[0]).parent), *more.split(os.pathsep)] if more else [str(Path(sys.argv[0]).parent)]


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
        from twisted.scripts.twistd import run as twistd

        from rtunnel.options.command import main as rtunnel

        end_with(rtunnel if Path(sys.argv[0]).name == "rtunnel" else twistd)


def end_with(program: Callable[[], object]) -> NoReturn:
    """Run it, and end as an interpreter does, without freeing what there is."""
    try:
        sys.exit(program())  # type: ignore[arg-type]
    except SystemExit as ending:
        if ending.code is not None and not isinstance(ending.code, int):
            raise
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ending.code or 0)


if __name__ == "__main__":
    main()
