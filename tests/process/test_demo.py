"""``make demo``: with the system's web server and curl or without them, and when it is interrupted."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Process, Twistds, poll

ETC = Path(__file__).parent.parent.parent / "etc"

WITHOUT_PROGRAMS = "import sys, demo; demo.find = lambda program: None; sys.exit(demo.main())"


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The directory in which the demo makes its own."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


def children(process: Process) -> list[int]:
    """The processes that the demo says it started."""
    return [int(number) for number in re.findall(r"\(process (\d+)\)", process.output)]


def all_gone(process: Process) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in children(process))


def test_demo(twistd: Twistds, temporary: Path) -> None:
    demo = twistd.program(sys.executable, str(ETC / "demo.py"), env={"TMPDIR": str(temporary)})
    assert demo.wait() == 0, demo
    assert demo.output.count("Hello through the tunnel") == 2
    assert demo.output.count(": exit code 0") == 5
    assert "connected to host 'demo': direct, 127.0.0.1:" in demo.output
    # No other machine is asked for anything, STUN servers above all.
    ends = [line for line in demo.output.splitlines() if re.match(r"  \$ rtunnel (host|connect) ", line)]
    assert len(ends) == 2
    assert all(line.endswith(" --stun-server '' --ice-interface 127.0.0.1") for line in ends)
    assert len(children(demo)) == 6
    assert all_gone(demo)
    assert not list(temporary.iterdir())


def test_demo_without_nginx_and_curl(twistd: Twistds, temporary: Path) -> None:
    env = {"TMPDIR": str(temporary), "PYTHONPATH": str(ETC)}
    demo = twistd.program(sys.executable, "-B", "-c", WITHOUT_PROGRAMS, env=env)
    assert demo.wait() == 0, demo
    assert "$ twistd -n --pidfile= web " in demo.output
    assert demo.output.count("Hello through the tunnel") == 2


def test_demo_that_fails_shows_why(twistd: Twistds, temporary: Path) -> None:
    broken = WITHOUT_PROGRAMS.replace("sys.exit", "demo.free_ports = lambda count: [1] * count; sys.exit")
    env = {"TMPDIR": str(temporary), "PYTHONPATH": str(ETC)}
    demo = twistd.program(sys.executable, "-B", "-c", broken, env=env)
    assert demo.wait() == 1, demo
    assert "The demo failed: " in demo.output
    assert "--- web ---" in demo.output
    assert all_gone(demo)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("plugin", "number", "code"), [("server", signal.SIGTERM, 143), ("connect", signal.SIGINT, 130)]
)
def test_interrupted_demo_cleans_up(
    plugin: str, number: signal.Signals, code: int, twistd: Twistds, temporary: Path
) -> None:
    demo = twistd.program(sys.executable, str(ETC / "demo.py"), env={"TMPDIR": str(temporary)})
    demo.wait_for(rf"rtunnel {plugin} [^\n]*\n +\(process")
    assert demo.terminate(number=number) == code
    poll(lambda: all_gone(demo), PATIENCE, f"the processes of the demo are gone\n{demo}")
    assert not list(temporary.iterdir())
