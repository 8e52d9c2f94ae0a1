"""Upgrades with certificates: of links, of visitors whose TLS ends at the client, and those that a CA is asked for."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Twistds, poll, wait_until_open
from tests.process.pebble import Pebble
from tests.process.services import LOOPBACK, Service, Visitor, count, expected, fetch, fetch_or_none, page, read_all
from tests.process.test_acme import NAME, OBTAINED, House, Site, with_files
from tests.process.test_etc import ETC
from tests.process.test_reload import Ends, rtunnel
from tests.process.tls_services import UnderTls
from tests.process.upgrades import Successors, ended
from tests.tls.parts import Authority

Serve = Callable[..., Service]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs UNIX sockets")

SIZE = 30_000_000


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of this test are where nobody else's are."""


@pytest.fixture
def house(twistd: Twistds, tmp_path: Path, serve: Serve) -> House:
    return House(twistd, tmp_path, serve(GET=Site("GET"), POST=Site("POST")).address)


def has_visitor(pid: int) -> bool:
    return "visitors 1" in rtunnel("status", str(pid))[1]


class TestOfLinks:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        found = Authority(tmp_path / "pki")
        found.server()
        return found

    @pytest.mark.parametrize("upgraded", ["server", "client"])
    def test_revoked_after_it(
        self, upgraded: str, twistd: Twistds, serve: Serve, authority: Authority, successors: Successors
    ) -> None:
        """The link is closed, and so are visitors of the old process."""
        laptop = authority.client("laptop", file="client")
        started = UnderTls(twistd, authority.directory)
        tunnel = started.tunnel(serve(hold=count, GET=page("here")).address)
        with tunnel.visit(b"hold") as visitor:
            ends: dict[str, Any] = {"server": tunnel.server, "client": tunnel.client}
            for each in ends.values():
                poll(lambda pid=each.pid: has_visitor(pid), PATIENCE, "a visitor")  # type: ignore[misc]
            successors.upgrade(ends[upgraded].pid)
            assert fetch(tunnel.public) == "here"
            assert ends[upgraded].running
            authority.revoke(laptop)
            with pytest.raises(ConnectionError):
                visitor.recv(1)
        assert ended(ends[upgraded]) == 0
        poll(lambda: fetch_or_none(tunnel.public) is None, PATIENCE, "the end of the link")

    def test_renewed_after_it(
        self, twistd: Twistds, serve: Serve, authority: Authority, successors: Successors
    ) -> None:
        """The new process looks at the files, too."""
        authority.client("laptop", file="client")
        tunnel = UnderTls(twistd, authority.directory).tunnel(serve(GET=page("here")).address)
        successors.upgrade(tunnel.server.pid)
        assert ended(tunnel.server) == 0
        authority.server("fresh server", file="server")
        tunnel.server.wait_for("the TLS files have changed; new links use them")
        successors.upgrade(tunnel.client.pid)
        tunnel.client.wait_for("certificate of 'fresh server'")
        assert fetch(tunnel.public) == "here"


class TestOfNames:
    def test_files_of_the_operator(self, house: House, tmp_path: Path, successors: Successors) -> None:
        """A download that began before the upgrade is whole, and new visitors see what the file has then."""
        files = Authority(tmp_path / "pki", kind="ECDSA").server(hosts=[NAME], kind="ECDSA")
        client = with_files(house, files, tmp_path / "client.yaml")
        first = house.serial()
        with house.visit() as visitor:
            visitor.sendall(f"GET /get/{SIZE}/7 HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += visitor.recv(1)
            successors.upgrade(client.pid)
            assert house.curl(tmp_path / "pki" / "ca.crt").stdout == "hello"
            assert house.serial() == first
            assert client.running
            assert read_all(visitor) == expected(SIZE, 7)
        assert ended(client) == 0
        other = Authority(tmp_path / "other", kind="ECDSA").server(hosts=[NAME], kind="ECDSA")
        files.key.write_bytes(other.key.read_bytes())
        files.cert.write_bytes(other.cert.read_bytes())
        poll(lambda: house.curl(tmp_path / "other" / "ca.crt").stdout == "hello", PATIENCE, "the other certificate")
        assert "Traceback" not in client.output

    def test_one_of_a_ca_is_not_ordered_again(
        self, house: House, twistd: Twistds, tmp_path: Path, successors: Successors
    ) -> None:
        pebble = Pebble(twistd, tmp_path / "pebble", house.port)
        pebble.start()
        client = house.client(*pebble.options)
        client.wait_for(OBTAINED)
        first = house.serial()
        successors.upgrade(client.pid)
        assert ended(client) == 0
        assert house.serial() == first
        assert len(re.findall(OBTAINED, client.output)) == 1

    def test_one_that_is_wanted_is_ordered_by_the_new_process(
        self, house: House, twistd: Twistds, tmp_path: Path, successors: Successors
    ) -> None:
        """Nothing answers at the CA at first, so both processes wait for their next attempt."""
        pebble = Pebble(twistd, tmp_path / "pebble", house.port)
        client = house.client(*pebble.options)
        client.wait_for(f"{NAME}: no new certificate, .*; next attempt in")
        successors.upgrade(client.pid)
        assert ended(client) == 0
        with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
            house.visit()
        pebble.start()
        client.wait_for(OBTAINED)
        house.visit(pebble.root()).close()
        assert len(re.findall("a new account was made", client.output)) == 1

    def test_an_order_that_is_under_way(self, house: House, tmp_path: Path) -> None:
        """It comes first: a CA may be about to ask the old process, and counts orders that come to nothing."""
        authority = Authority(tmp_path / "pki", kind="ECDSA")
        with socket.create_server((LOOPBACK, 0)) as silent:
            directory = f"https://{LOOPBACK}:{silent.getsockname()[1]}/dir"
            options = f"--acme-server={directory}", f"--acme-ca={authority.cert}", "--acme-email=admin@example.org"
            client = house.client(*options)
            client.wait_for(f"{NAME}: a certificate is being obtained")
            with silent.accept()[0]:
                assert rtunnel("upgrade", str(client.pid)) == (
                    1,
                    "",
                    "rtunnel upgrade: no upgrade: a certificate is being ordered; try again in a minute\n",
                )
        assert client.terminate() == 0


class TestTac:
    def test_both_ends(self, twistd: Twistds, serve: Serve, successors: Successors) -> None:
        """``twistd -ny`` starts again with the same file and the same environment."""

        def start(name: str, *_: str) -> Any:
            end = name.removeprefix("rtunnel-")
            env = {"RTUNNEL_CONFIG": f"{end}.yaml"}
            return twistd(twistd_options=("--pidfile=", "-ny", str(ETC / f"{name}.tac")), env=env)

        ends = Ends(twistd, serve(GET=page("here"), hold=count).address, start=start, start_client=start)
        with Visitor(ends.public, b"hold") as visitor:
            poll(lambda: has_visitor(ends.server.pid), PATIENCE, "a visitor")
            for process in (ends.server, ends.client):
                new = successors.upgrade(process.pid)
                assert fetch(ends.public) == "here"
                assert process.running
                assert rtunnel("reload", str(new))[:2] == (0, "nothing has changed\n")
            visitor.sendall(b"more")
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100).startswith(b"4 ")
        for process in (ends.server, ends.client):
            assert ended(process) == 0
            assert "Traceback" not in process.output
        wait_until_open(ends.control)
