"""Upgrades of the first process of a container, which ends with that process."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.first import First
from tests.process.harness import Twistds, clean_environment, need, poll, twistd_program
from tests.process.services import Service, Visitor, count, fetch, page
from tests.process.test_reload import ROOT, Ends
from tests.process.upgrades import ended

Serve = Callable[..., Service]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of this test are where nobody else's are."""


@pytest.fixture
def first() -> Iterator[list[First]]:
    """The containers of this test."""
    found: list[First] = []
    yield found
    for each in found:
        each.kill()
        print(each)


@pytest.fixture
def ends(twistd: Twistds, serve: Serve, first: list[First]) -> Ends:
    """A server in a container, and a client outside."""

    def start(*arguments: str) -> First:
        argv = [twistd_program(), "-n", "--pidfile=", *arguments]
        first.append(First(argv, cwd=twistd.directory))
        return first[0]

    return Ends(twistd, serve(GET=page("here"), hold=count).address, start=start)


def name_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def rtunnel(container: First, *arguments: str) -> tuple[int, str, str]:
    """A command in the container, as the engine's ``exec`` runs it: exit code, standard output, standard error."""
    argv = [need("nsenter"), f"--target={container.inside}", "--pid", "--mount", sys.executable, "-m", "rtunnel"]
    env = clean_environment({"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"})
    done = subprocess.run([*argv, *arguments], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


def upgrade(container: First, pid: int) -> int:
    """Upgrade a process, by its id in the container. Return that of its successor."""
    code, out, err = rtunnel(container, "upgrade", str(pid))
    assert (code, err) == (0, "")
    return int(out.split()[1])


def has_visitor(container: First) -> bool:
    return "visitors 1" in rtunnel(container, "status", "1")[1]


def children(container: First) -> list[int]:
    """Its child processes, by their ids out here."""
    return [
        int(each) for each in Path(f"/proc/{container.inside}/task/{container.inside}/children").read_text().split()
    ]


class TestFirst:
    def test_its_visitors_stay_and_then_it_is_small(self, ends: Ends, first: list[First]) -> None:
        [container] = first
        with Visitor(ends.public, b"hold") as visitor:
            poll(partial(has_visitor, container), PATIENCE, "a visitor")
            new = upgrade(container, 1)
            assert new > 1
            assert fetch(ends.public) == "here"
            assert "rtunnel-server" in name_of(container.inside)
            visitor.sendall(b"more")
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100) == b"4 " + hashlib.sha256(b"more").hexdigest().encode()
        poll(lambda: "-S" in name_of(container.inside), PATIENCE, "the small program")
        status = Path(f"/proc/{container.inside}/status").read_text()
        rss = int(status.partition("VmRSS:")[2].split()[0])
        assert rss < 20_000, "KiB"
        # The next one, and then a signal to the container.
        newest = upgrade(container, new)
        assert fetch(ends.public) == "here"
        os.kill(container.inside, signal.SIGHUP)
        container.wait_for("SIGHUP: the settings are read again")
        assert str(newest) in rtunnel(container, "status")[1]
        os.kill(container.inside, signal.SIGTERM)
        assert ended(container) == 0
        assert "Traceback" not in container.output

    def test_it_stops_while_there_are_visitors(self, ends: Ends, first: list[First]) -> None:
        """All of them, and the engine sees the exit code."""
        [container] = first
        ends.write("server", drain=0.5)
        assert rtunnel(container, "reload", "1")[0] == 0
        with Visitor(ends.public, b"hold"):
            poll(partial(has_visitor, container), PATIENCE, "a visitor")
            upgrade(container, 1)
            assert container.stop() == 0

    def test_its_successor_is_killed(self, ends: Ends, first: list[First]) -> None:
        """The container ends, so that the engine can start it again."""
        [container] = first
        upgrade(container, 1)
        poll(lambda: "-S" in name_of(container.inside), PATIENCE, "the small program")
        [child] = children(container)
        os.kill(child, signal.SIGKILL)
        assert ended(container) == 128 + 9

    def test_its_successor_is_killed_while_it_has_visitors(self, ends: Ends, first: list[First]) -> None:
        [container] = first
        ends.write("server", drain=0.5)
        assert rtunnel(container, "reload", "1")[0] == 0
        with Visitor(ends.public, b"hold"):
            poll(partial(has_visitor, container), PATIENCE, "a visitor")
            upgrade(container, 1)
            [child] = children(container)
            os.kill(child, signal.SIGKILL)
            assert ended(container) == 128 + 9
        container.wait_for("no process is left that has taken over; this one ends too")

    def test_the_new_settings_cannot_be_used(self, ends: Ends, first: list[First]) -> None:
        ends.write("server", pool="many")
        code, out, err = rtunnel(first[0], "upgrade", "1")
        assert (code, out) == (1, "")
        assert "the new process cannot start: server.yaml: line " in err
        assert fetch(ends.public) == "here"
        assert first[0].stop() == 0
