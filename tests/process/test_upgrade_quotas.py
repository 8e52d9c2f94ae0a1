"""Quotas over an upgrade with real processes: what visitors of the old process use counts."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Twistds, poll
from tests.process.services import Service, Visitor, count, get
from tests.process.test_reload import Ends, rtunnel
from tests.process.upgrades import Successors, ended

Serve = Callable[..., Service]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs UNIX sockets")

KB = 1000


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of this test are where nobody else's are."""


@pytest.fixture
def ends(twistd: Twistds, serve: Serve, tmp_path: Path) -> Ends:
    """A tunnel whose visitors may use 2 MB a month."""
    ends = Ends(twistd, serve(hold=count, get=get).address, state_dir=str(tmp_path / "state"))
    [tunnel] = ends.settings["client"]["tunnels"]
    ends.publish({**tunnel, "quota": "2MB"}, new=1)
    return ends


def used(tmp_path: Path) -> int:
    """As the file has it."""
    path = tmp_path / "state" / "quotas.json"
    return sum(each["bytes"] for each in json.loads(path.read_text())["used"]) if path.exists() else 0


def test_what_the_old_ones_use_counts(ends: Ends, successors: Successors, tmp_path: Path) -> None:
    """Two of them, of which the first has another successor by then."""
    with Visitor(ends.public, b"hold") as first:
        poll(lambda: "visitors 1" in rtunnel("status", str(ends.server.pid))[1], PATIENCE, "a visitor")
        second_process = successors.upgrade(ends.server.pid)
        with Visitor(ends.public, b"hold") as second:
            # One who waits, as the client is not back yet, would go on to the newest.
            poll(lambda: "visitors 2" in rtunnel("status", str(ends.client.pid))[1], PATIENCE, "both at the client")
            newest = successors.upgrade(second_process)
            for visitor in (first, second):
                visitor.sendall(bytes(500 * KB))
                visitor.shutdown(socket.SHUT_WR)
                assert visitor.recv(100).startswith(b"500000 ")
        poll(lambda: used(tmp_path) >= 1000 * KB, PATIENCE, "what both have used")
    assert ended(ends.server) == 0
    os.kill(newest, signal.SIGTERM)
    poll(lambda: 1000 * KB <= used(tmp_path) < 1001 * KB, PATIENCE, "the file as it was")


def test_visitors_of_both_use_it_up(ends: Ends, successors: Successors) -> None:
    """Those of the old one are ended too."""
    with Visitor(ends.public, b"hold") as old:
        poll(lambda: "visitors 1" in rtunnel("status", str(ends.server.pid))[1], PATIENCE, "a visitor")
        successors.upgrade(ends.server.pid)
        with Visitor(ends.public, b"get 1500000 7") as new:
            assert len(new.recv(1)) == 1
            while new.recv(1 << 20):
                pass
        old.sendall(bytes(600 * KB))
        ends.client.wait_for("the server says: all of the quota of 2 MB of this month is used")
        with pytest.raises(ConnectionError):
            old.recv(1)
    assert ended(ends.server) == 0
