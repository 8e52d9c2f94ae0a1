"""What systemd hears of a service, and what it keeps for it over a restart."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, poll, wait_until_closed, wait_until_open
from tests.process.http_load import PAUSE, Load
from tests.process.services import LOOPBACK, Background, Service, Visitor, count, fetch, page, wait_for_page
from tests.process.systemd import Systemd
from tests.process.test_etc import PACKAGED, ROOT, read_unit
from tests.process.test_reload import Ends, rtunnel

Serve = Callable[..., Service]

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")

SERVER = ("rtunnel-server", "--config", "server.yaml")


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of this test are where nobody else's are."""


@pytest.fixture
def ends(twistd: Twistds, serve: Serve, systemd: Systemd) -> Ends:
    """A server that systemd runs, and a client."""
    return Ends(twistd, serve(GET=page("here"), hold=count).address, start=systemd.start)


def state_of(systemd: Systemd) -> dict[str, object]:
    [number] = [number for number, _ in systemd.kept if stat.S_ISREG(os.fstat(number).st_mode)]
    found: dict[str, object] = json.loads(os.pread(number, 1 << 20, 0))
    return found


class TestReload:
    @pytest.mark.parametrize("pool", [7, "many"])
    def test_it_says_when_it_begins_and_ends(self, ends: Ends, systemd: Systemd, pool: object) -> None:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        ends.write("server", pool=pool)
        ends.server.send_signal(signal.SIGHUP)
        said = systemd.hear("RELOADING=1")
        found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", said)
        assert found is not None
        assert before <= int(found[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        systemd.hear("READY=1")
        ends.server.wait_for("reloaded: pool |settings are not reloaded")
        assert systemd.said.count("READY=1") == 2


class TestRestart:
    def test_nobody_is_refused(self, ends: Ends, systemd: Systemd) -> None:
        """Also while no process is there. The client finds its places again, for which visitors wait."""
        http = free_port()
        ends.write("server", http_listen=f"{LOOPBACK}:{http}")
        assert rtunnel("reload", str(ends.server.pid))[0] == 0
        [tunnel] = ends.settings["client"]["tunnels"]
        ends.publish(tunnel, {"publish": f"http:a.example={tunnel['local']}"}, new=1)
        for _ in range(2):
            with (
                Load(ends.public, 4, keeps=False, pause=PAUSE) as load,
                Load(http, 4, host="a.example", keeps=False, pause=PAUSE) as named,
            ):
                load.wait_for(20)
                named.wait_for(20)
                assert ends.server.terminate() == 0
                systemd.hear("FDSTORE=1")
                assert systemd.said[-1] == "STOPPING=1"
                ends.client.wait_for("the server is (going down|started again)")
                wait_until_open(ends.public)
                wait_until_open(ends.control)
                ends.server = systemd.start(*SERVER)
                assert systemd.kept == []
                load.wait_for(20)
                named.wait_for(20)
            assert set(load.answers) == set(named.answers) == {200}

    def test_new_visitors_wait_while_those_who_are_there_finish(
        self, twistd: Twistds, serve: Serve, systemd: Systemd
    ) -> None:
        """Those on the link. Who has a data connection stays: see test_systemd_visitors."""
        ends = Ends(twistd, serve(GET=page("here"), hold=count).address, start=systemd.start, data_plane="mux")
        with Visitor(ends.public, b"hold") as visitor:
            poll(lambda: "visitors 1" in rtunnel("status", str(ends.server.pid))[1], PATIENCE, "a visitor")
            ends.server.send_signal(signal.SIGTERM)
            ends.server.wait_for("waiting up to 10 s for 1 visitors")
            new = Background(lambda: fetch(ends.public))
            visitor.sendall(b"more")
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100).startswith(b"4 ")
        assert ends.server.wait() == 0
        systemd.hear("FDSTORE=1")
        ends.server = systemd.start(*SERVER)
        assert new.join() == "here"

    def test_what_is_left(self, ends: Ends, systemd: Systemd) -> None:
        assert ends.server.terminate() == 0
        systemd.hear("FDSTORE=1")
        state = state_of(systemd)
        sockets = state["sockets"]
        assert isinstance(sockets, dict)
        assert (state["version"], state["service"]) == (1, "rtunnel-server")
        assert sorted(name.partition(" ")[0] for name in sockets.values()) == ["UDP", "control", "public"]
        assert {int(each) for each in sockets} < {os.fstat(number).st_ino for number, _ in systemd.kept}
        assert {name for _, name in systemd.kept} == {"rtunnel"}

    def test_it_is_not_started_again(self, ends: Ends, systemd: Systemd) -> None:
        assert ends.server.terminate() == 0
        systemd.hear("FDSTORE=1")
        systemd.drop()
        wait_until_closed(ends.public)
        wait_until_closed(ends.control)

    def test_a_start_that_fails(self, ends: Ends, systemd: Systemd) -> None:
        """What is kept stays for the one after it."""
        ends.write("server", pool="many")
        assert ends.server.terminate() == 0
        systemd.hear("FDSTORE=1")
        assert systemd.run(*SERVER).wait() == 1
        # It waits in the backlog.
        ends.client.wait_for("does not answer yet")
        ends.write("server", pool=7)
        ends.server = systemd.start(*SERVER)
        assert fetch(ends.public) == "here"
        assert "reference" not in ends.client.output

    def test_an_address_that_is_in_the_way(self, ends: Ends, systemd: Systemd) -> None:
        ends.write("server", control_listen=f":{ends.control}")
        assert ends.server.terminate() == 0
        systemd.hear("FDSTORE=1")
        ends.server = systemd.start(*SERVER)
        ends.server.wait_for("published")
        assert fetch(ends.public) == "here"

    def test_other_settings(self, ends: Ends, systemd: Systemd) -> None:
        """An address that is not there any more is closed, here and at systemd."""
        before, ends.control = ends.control, free_port()
        ends.write("server", control_listen=f"{LOOPBACK}:{ends.control}")
        assert ends.server.terminate() == 0
        systemd.hear("FDSTORE=1")
        systemd.start(*SERVER)
        wait_until_closed(before)
        wait_until_open(ends.control)

    @pytest.mark.parametrize(
        "left", [b"", b"[]", b"{", b'{"version": 2}', b'{"version": 1, "service": "rtunnel-server", "sockets": 1}']
    )
    def test_what_cannot_be_used(self, ends: Ends, systemd: Systemd, left: bytes) -> None:
        assert ends.server.terminate() == 0
        systemd.hear("FDSTORE=1")
        [number] = [number for number, _ in systemd.kept if stat.S_ISREG(os.fstat(number).st_mode)]
        os.truncate(number, 0)
        os.pwrite(number, left, 0)
        ends.server = systemd.start(*SERVER)
        ends.server.wait_for("published")
        assert fetch(ends.public) == "here"
        assert "what systemd has kept cannot be used, and is closed: " in ends.server.output
        assert "Traceback" not in ends.server.output

    def test_beside_a_socket_of_systemd(self, ends: Ends, systemd: Systemd) -> None:
        """It comes first."""
        assert ends.server.terminate() == 0
        systemd.hear("FDSTORE=1")
        with socket.create_server((LOOPBACK, 0)) as listener:
            systemd.kept.insert(0, (os.dup(listener.fileno()), "rtunnel-server.socket"))
            port = listener.getsockname()[1]
        ends.write("server", control_listen="systemd:domain=INET:index=0")
        ends.server = systemd.start(*SERVER)
        ends.write("client", server=f"{LOOPBACK}:{port}")
        assert rtunnel("reload", str(ends.client.pid))[0] == 0
        wait_for_page(ends.public, "here", PATIENCE)

    def test_who_drains_leaves_nothing(self, ends: Ends, systemd: Systemd) -> None:
        assert rtunnel("drain", str(ends.server.pid))[0] == 0
        assert ends.server.wait() == 0
        wait_until_closed(ends.public)
        assert systemd.said == ["READY=1"]


def test_units() -> None:
    for name in ("rtunnel-server", "rtunnel-client"):
        unit = read_unit(PACKAGED / "systemd" / f"{name}.service")
        assert unit["Service"]["Type"] == "notify"
        assert int(unit["Service"]["FileDescriptorStoreMax"]) > 0
    drop_in = read_unit(ROOT / "etc" / "systemd" / "notify-reload.conf")
    assert dict(drop_in["Service"]) == {"Type": "notify-reload", "ExecReload": ""}
