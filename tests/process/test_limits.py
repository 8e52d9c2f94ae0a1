"""Who may come to the ports of real processes, while the clients file changes; and fail2ban, which reads the log."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.documents import files
from tests.hostile.harness import connect
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, need, poll
from tests.process.rtc import Asker, UdpService
from tests.process.services import LOOPBACK, Service, page

OTHER = "127.0.0.2"
GET = b"GET / HTTP/1.0\r\n\r\n"


class Limited:
    """A server with a clients file, and a client that publishes a TCP port with rules, and a UDP port."""

    def __init__(self, twistd: Twistds, plane: str, tcp: str, udp: str) -> None:
        self.port, self.udp_port = free_port(), free_port()
        control = free_port()
        self._clients = twistd.directory / "clients.yaml"
        self.limit("")
        config = twistd.directory / "client.yaml"
        config.write_text(
            f"server: {LOOPBACK}:{control}\n"
            "token: laptop-token\n"
            f"data-plane: {plane}\n"
            "tunnels:\n"
            f"- publish: tcp:{self.port}={tcp}\n"
            "  max-connections: 2\n"
            "  deny: 127.0.0.3\n"
            f"- publish: udp:{self.udp_port}={udp}\n"
            "  max-connections: 1\n"
        )
        self.server = twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{control}:interface={LOOPBACK}",
            f"--public-interface={LOOPBACK}",
            f"--clients={self._clients}",
            f"--data-plane={plane}",
        )
        self.client = twistd("rtunnel-client", f"--config={config}")
        self.client.wait_for(rf":{self.port} is published; the service at \S+ answers$")
        self.client.wait_for(rf":{self.udp_port} is published for UDP$")

    def limit(self, limits: str) -> None:
        """Write the clients file anew."""
        new = self._clients.with_suffix(".new")
        new.write_text(f"laptop: {{token: laptop-token, {limits}}}\n")
        new.rename(self._clients)

    def gets(self, source: str = LOOPBACK) -> str:
        """What a visitor gets: the page, or how he is turned away."""
        try:
            with connect(self.port, source, data=GET) as visitor, visitor.makefile("rb") as answer:
                return answer.read().decode().rpartition("\n")[2]
        except ConnectionResetError:
            return "reset"

    def refused(self, what: str, why: str) -> None:
        self.server.wait_for(rf"visitor \S+ of {what} refused: {re.escape(why)}$")


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_rules_and_the_clients_file(
    twistd: Twistds, serve: Callable[..., Service], udp_service: UdpService, plane: str
) -> None:
    limited = Limited(twistd, plane, serve(GET=page("here")).address, udp_service.address)
    port, udp_port = f"port {limited.port}", f"UDP port {limited.udp_port}"
    assert [limited.gets(), limited.gets(OTHER), limited.gets("127.0.0.3")] == ["here", "here", "reset"]
    limited.refused(port, "its address may not come")
    with connect(limited.port) as first, connect(limited.port):
        assert limited.gets() == "reset"
        assert limited.gets(OTHER) == "here"
        limited.refused(port, "its address has 2 connections at once, the limit")
        with Asker(limited.udp_port) as asker, Asker(limited.udp_port) as late:
            assert asker.ask(b"who?") is not None
            late.send(b"in vain")
            limited.refused(udp_port, "its address has 1 flow at once, the limit")
            limited.limit(f"deny: {LOOPBACK}")
            said = rf"{limited.port}.*the server says: the server limits visitors: {LOOPBACK} may not come$"
            limited.client.wait_for(said)
            asker.send(b"in vain")
            limited.refused(udp_port, "its address may not come")
            assert limited.gets() == "reset"
            assert limited.gets(OTHER) == "here"
            limited.limit("max-connections: 1")
            limited.client.wait_for("the server limits visitors: 1 flow of an address at once$")
            assert asker.ask(b"who is it?") is not None
        assert limited.gets() == "reset"
        first.sendall(GET)
        with first.makefile("rb") as answer:
            assert answer.read().endswith(b"here"), "who was there stays"
    poll(lambda: limited.gets() == "here", PATIENCE, "a place")
    limited.limit("")
    limited.client.wait_for("the server does not limit visitors any more")


def matched(filter: Path, log: Path) -> int:
    """How many lines of a log fail2ban takes for a reason to ban somebody."""
    argv = [need("fail2ban-regex"), "--print-all-matched", str(log), str(filter)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    found = re.search(r"(\d+) matched", done.stdout)
    assert found is not None, done.stdout + done.stderr
    return int(found[1])


def test_fail2ban(twistd: Twistds, serve: Callable[..., Service], udp_service: UdpService, tmp_path: Path) -> None:
    """The filter in the documents finds the lines, in a file and as the journal has them, and no others."""
    (filter := tmp_path / "rtunnel.conf").write_text(files()["/etc/fail2ban/filter.d/rtunnel.conf"])
    limited = Limited(twistd, "auto", serve(GET=page("here")).address, udp_service.address)
    assert limited.gets("127.0.0.3") == "reset"
    with Asker(limited.udp_port) as one, Asker(limited.udp_port) as other:
        assert one.ask(b"who?") is not None
        other.send(b"in vain")
        limited.refused("UDP port.*", "its address has 1 flow at once, the limit")
    assert limited.gets() == "here"
    lines = limited.server.output.splitlines()
    (log := tmp_path / "file.log").write_text("".join(f"{line}\n" for line in lines))
    assert matched(filter, log) == 1
    journal = "".join(f"Nov 29 18:51:25 host twistd[123]: {line}\n" for line in lines)
    (tmp_path / "journal.log").write_text(journal)
    assert matched(filter, tmp_path / "journal.log") == 1
