"""A real Redis for tests: at a UNIX socket, and if wanted at a port."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.patience import PATIENCE
from tests.process.harness import need, poll


class RedisServer:
    """A ``redis-server``, which keeps nothing on the disk.

    :param directory: for its socket and its log. Its path must be short.
    :param options: more of its configuration.
    """

    def __init__(self, directory: Path, *options: str, name: str = "redis") -> None:
        self._program = need("redis-server")
        self._client = need("redis-cli")
        self.socket = directory / f"{name}.sock"
        self._log = directory / f"{name}.log"
        self._options = options
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.login: tuple[str, ...] = ()

    def start(self, *more: str) -> None:
        """Start it, and wait until it answers."""
        common = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self._directory)]
        common += ["--repl-diskless-sync-delay", "0"]
        self.start_as(*common, *self._options, *more)

    def start_as(self, *arguments: str) -> None:
        """Start it with these arguments only, such as a file, which name the same socket."""
        command = (self._program, *arguments)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        poll(self._answers, PATIENCE, f"redis-server answers; it says: {self._log.read_text()[-1000:]}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        return "PONG" in self.cli("PING", check=False)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it do nothing until :meth:`thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End :meth:`freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def cli(self, *command: str, check: bool = True) -> str:
        """What Redis says to a command."""
        done = subprocess.run(
            (self._client, "-s", str(self.socket), *self.login, *command),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=check,
        )
        return done.stdout + done.stderr


@contextmanager
def a_redis(*, is_started: bool = True) -> Iterator[RedisServer]:
    """A Redis with a directory of its own."""
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="rt-") as directory:
        server = RedisServer(Path(directory))
        try:
            if is_started:
                server.start()
            yield server
        finally:
            server.kill()
