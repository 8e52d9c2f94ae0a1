"""Upgrades of which nothing comes, with real processes: the old one goes on as if nothing had been."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, poll
from tests.process.services import LOOPBACK, Service, Visitor, count, fetch, page
from tests.process.test_reload import Ends, rtunnel
from tests.process.upgrades import Newer, Successors, ended

Serve = Callable[..., Service]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs UNIX sockets")


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of this test are where nobody else's are."""


@pytest.fixture
def ends(twistd: Twistds, serve: Serve) -> Ends:
    return Ends(twistd, serve(GET=page("here"), hold=count).address)


NEW = {
    "ends at its start": "import os\nos._exit(3)\n",
    "speaks another version": "import rtunnel.options.upgrade.channel as channel\nchannel.VERSION = 2\n",
    "ends before it listens": (
        "import os\nfrom rtunnel.relay.inheritance import Inheritance\nInheritance.fill = lambda *_: os._exit(4)\n"
    ),
    "ends when it begins": (
        "import os\nfrom rtunnel.options.upgrade.predecessor import Predecessor\n"
        "wait = Predecessor.wait_for_go\n"
        "Predecessor.wait_for_go = lambda self: (wait(self), os._exit(5))\n"
    ),
    "cannot start": (
        "from rtunnel.errors import StartupError\nfrom rtunnel.relay.inheritance import Inheritance\n"
        "def fail(*_): raise StartupError('no memory of what was')\n"
        "Inheritance.fill = fail\n"
    ),
    "makes no sense": (
        "from rtunnel.options.upgrade.predecessor import Predecessor\n"
        "Predecessor.wait_for_go = lambda self: self._channel._socket.sendall(bytes([255]) * 255)\n"
    ),
}
"""What a new version could do: Python that runs first in its process."""

SAYS = {
    "ends at its start": "the new process: it has ended with exit code 3; the log, or standard error, has what it said",
    "speaks another version": r"release \S+ speaks version 2 of the hand-over, and this process, .*, version 1; .*",
    "ends before it listens": "the new process: it has ended with exit code 4; .*",
    "ends when it begins": "the new process: it has ended with exit code 5; .*",
    "cannot start": "the new process cannot start: no memory of what was",
    "makes no sense": "the new process: it says what makes no sense",
}


class TestNothingComesOfIt:
    """The old process goes on as if nothing had been, and an upgrade that works is possible afterwards."""

    @pytest.mark.parametrize("end", ["server", "client"])
    @pytest.mark.parametrize("what", NEW)
    def test_the_new_version(self, newer: Newer, ends: Ends, successors: Successors, what: str, end: str) -> None:
        process = ends.server if end == "server" else ends.client
        with Visitor(ends.public, b"hold") as visitor:
            poll(lambda: "visitors 1" in rtunnel("status", str(process.pid))[1], PATIENCE, "a visitor")
            newer.does(NEW[what])
            code, out, err = rtunnel("upgrade", str(process.pid))
            assert (code, out) == (1, "")
            assert re.fullmatch(f"rtunnel upgrade: {SAYS[what]}\n", err), err
            process.wait_for(f"upgrade: {SAYS[what]}; this process goes on as ever")
            assert fetch(ends.public) == "here"
            assert rtunnel("status", str(process.pid))[0] == 0
            newer.is_as_ever()
            successors.upgrade(process.pid)
            assert fetch(ends.public) == "here"
            visitor.sendall(b"more")
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100).startswith(b"4 ")
        assert ended(process) == 0
        for each in (ends.server, ends.client):
            assert "Traceback" not in each.output

    def test_a_bad_file(self, ends: Ends) -> None:
        ends.write("server", max_links="many")
        code, out, err = rtunnel("upgrade", str(ends.server.pid))
        assert (code, out) == (1, "")
        assert re.search("the new process cannot start: server.yaml: line [0-9]+: key 'max_links': 'many' is", err)
        assert err.count("\n") == 1
        ends.server.wait_for("upgrade: the new process cannot start: .*; this process goes on as ever")
        assert fetch(ends.public) == "here"

    def test_an_address_that_is_in_use(self, ends: Ends) -> None:
        ends.write("server", http_listen=f"{LOOPBACK}:{ends.public}")
        code, _, err = rtunnel("upgrade", str(ends.server.pid))
        assert code == 1
        assert err.startswith("rtunnel upgrade: the new process cannot start: cannot listen on ")
        assert fetch(ends.public) == "here"

    def test_two_at_once(self, newer: Newer, ends: Ends, tmp_path: Path, successors: Successors) -> None:
        newer.does(f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.02)\n")
        ends.server.send_signal(signal.SIGUSR2)
        ends.server.wait_for("upgrade: process [0-9]+ starts")
        newer.is_as_ever()
        code, out, err = rtunnel("upgrade", str(ends.server.pid))
        assert (code, out, err) == (1, "", "rtunnel upgrade: no upgrade: another one is under way\n")
        (tmp_path / "go").touch()
        successors.add(int(ends.server.wait_for(r"upgrade: process (\d+) \(release .*\) takes over; this one ")[1]))
        assert ended(ends.server) == 0
        assert fetch(ends.public) == "here"

    def test_it_stops_meanwhile(self, newer: Newer, ends: Ends) -> None:
        newer.does("import time\ntime.sleep(1000)\n")
        ends.server.send_signal(signal.SIGUSR2)
        new = int(ends.server.wait_for(r"upgrade: process (\d+) starts")[1])
        assert ends.server.terminate() == 0
        with pytest.raises(ProcessLookupError):
            os.kill(new, 0)

    def test_it_drains(self, ends: Ends) -> None:
        ends.write("server", status_listen=f"{LOOPBACK}:{free_port()}")
        assert rtunnel("reload", str(ends.server.pid))[0] == 0
        assert rtunnel("drain", str(ends.server.pid))[0] == 0
        assert rtunnel("upgrade", str(ends.server.pid)) == (
            1,
            "",
            "rtunnel upgrade: no upgrade: the process is about to end\n",
        )

    def test_webrtc(self, twistd: Twistds) -> None:
        signaling = twistd("rtc-signal", "--addr", f"{LOOPBACK}:0")
        signaling.wait_for("signaling port listening")
        assert rtunnel("upgrade", str(signaling.pid)) == (
            1,
            "",
            "rtunnel upgrade: no upgrade: rtc-signal ends with its connections; restart it\n",
        )
        signaling.send_signal(signal.SIGUSR2)
        signaling.wait_for("no upgrade: rtc-signal ends with its connections; restart it")

    def test_by_hand(self, twistd: Twistds) -> None:
        process = twistd("rtunnel-server", "--control-listen", f"{LOOPBACK}:0", env={"RTUNNEL_UPGRADE": "1000"})
        assert process.wait() == 1
        assert "RTUNNEL_UPGRADE is for 'rtunnel upgrade' only; unset it" in process.output

    def test_a_pid_file_stays_if_nothing_comes_of_it(self, newer: Newer, twistd: Twistds) -> None:
        server = twistd("rtunnel-server", "--control-listen", f"{LOOPBACK}:0", twistd_options=("-n",))
        server.wait_for("control port listening")
        newer.does("raise SystemExit(3)")
        assert rtunnel("upgrade", str(server.pid))[0] == 1
        pid_file = twistd.directory / "twistd.pid"
        assert pid_file.read_text() == str(server.pid)
        assert server.terminate() == 0
        assert not pid_file.exists()
