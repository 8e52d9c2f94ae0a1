"""A forked ``twistd`` is what the program itself would be: arguments, environment, output, limits, and its end."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import fork_server
from tests.process.commands import run_to_end
from tests.process.harness import Twistd, Twistds

pytestmark = pytest.mark.skipif(not fork_server.available(), reason="this system has no pidfds")

SHOW = """
import os, resource, signal, sys
from twisted.application.service import Application

application = Application("show")
print("arguments", sys.argv[1:-1])
print("directory", os.getcwd())
print("variables", {name: os.environ[name] for name in ("MINE", "HOME") if name in os.environ})
print("descriptors", sorted(int(name) for name in os.listdir("/proc/self/fd"))[:3])
print("limit", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print("aiortc", "aiortc" in sys.modules)
print("reactor", "twisted.internet.reactor" in sys.modules, file=sys.stderr)
"""


@pytest.fixture
def fewer_descriptors() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fewer = min(soft, 777)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fewer, hard))
    yield fewer
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def show(directory: Path, *, cold: bool) -> Twistd:
    (directory / "show.tac").write_text(SHOW)
    options = ("-n", "--pidfile=", "--no_save", "-y", "show.tac")
    return Twistd(cwd=directory, env={"MINE": "1"}, twistd_options=options, cold=cold)


def test_the_same_as_the_program_itself(tmp_path: Path, fewer_descriptors: int) -> None:
    seen = []
    for cold in (True, False):
        with show(tmp_path, cold=cold) as process:
            process.wait_for("reactor class")
            assert process.terminate() == -signal.SIGTERM
        seen.append([line for line in process.output.splitlines() if not line.startswith("20")])
    assert f"limit {fewer_descriptors}" in seen[0]
    # Only the imports differ.
    assert seen[1] == [line.replace("aiortc False", "aiortc True") for line in seen[0]]


def test_its_end(twistd: Twistds) -> None:
    wrong = twistd("rtunnel-client")
    assert wrong.wait() == 1
    assert "--server is missing" in wrong.output
    killed = twistd("rtunnel-server", "--control-listen=tcp:0:interface=127.0.0.1")
    killed.wait_for("control port listening")
    assert killed.running
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    # As with any process that has ended, a signal is lost.
    killed.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [(["--version"], b"", 0), (["passwd", "alice"], b"wonder\n", 0), (["passwd"], b"x" * 200_000, 1)],
)
def test_commands_that_end(arguments: list[str], stdin: bytes, code: int, tmp_path: Path) -> None:
    """All that was printed is there, and the errors are apart."""
    cold, forked = (run_to_end("rtunnel", *arguments, cwd=tmp_path, stdin=stdin, cold=cold) for cold in (True, False))
    assert cold.returncode == forked.returncode == code
    assert cold.stderr == forked.stderr
    # Each hash has a salt of its own.
    assert cold.stdout.partition("$")[0] == forked.stdout.partition("$")[0]
    assert bool(cold.stdout) is not bool(code)


def test_many_at_once(twistd: Twistds) -> None:
    """Each has its own output and its own exit code."""
    many = [twistd(f"rtunnel-{name}", "--help") for name in ("server", "client") for _ in range(5)]
    assert [process.wait() for process in many] == [0] * 10
    assert [f"twistd [options] {process.argv[-2]}" in process.output for process in many] == [True] * 10
