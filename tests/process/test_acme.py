"""HTTPS that ends at the client, as an operator sets it up: real processes, a real ACME server, curl."""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistd, Twistds, need, poll
from tests.process.pebble import Pebble
from tests.process.services import Background, Service, count, expected, get, page, read_all, read_bytes, send_bytes
from tests.tls.parts import Authority, Holder

NAME = "app.example.org"
LOOPBACK = "127.0.0.1"
OBTAINED = rf"{NAME}: certificate from 127.0.0.1:\d+, valid until"


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


class House:
    """A server, and what a client of it needs."""

    def __init__(self, twistd: Twistds, directory: Path, local: str) -> None:
        self.twistd = twistd
        self.local = local
        self.state = directory / "state"
        listen = f"tcp:0:interface={LOOPBACK}"
        self.server = twistd(
            "rtunnel-server", "--log-level=debug", f"--control-listen={listen}", f"--https-listen={listen}"
        )
        self.control = int(self.server.wait_for(r"control port listening on \S+:(\d+)")[1])
        self.port = int(self.server.wait_for(r"HTTPS port listening on \S+:(\d+)")[1])

    def client(self, *options: str) -> Twistd:
        """A client that obtains certificates."""
        server = f"--server={LOOPBACK}:{self.control}"
        publish = f"--publish=https:{NAME}={self.local}"
        return self.twistd("rtunnel-client", server, publish, f"--state-dir={self.state}", *options)

    def curl(self, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
        where = f"{NAME}:{self.port}"
        arguments = ["--silent", "--show-error", "--cacert", str(root), "--resolve", f"{where}:{LOOPBACK}"]
        return subprocess.run(
            [need("curl"), *arguments, *options, f"https://{where}/"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def visit(self, root: str | None = None) -> ssl.SSLSocket:
        """A visitor whose handshake is done; *root* None: he trusts everybody."""
        context = ssl.create_default_context(cadata=root)
        if root is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        connection = socket.create_connection((LOOPBACK, self.port), timeout=PATIENCE)
        try:
            return context.wrap_socket(connection, server_hostname=NAME, suppress_ragged_eofs=False)
        except BaseException:
            connection.close()
            raise

    def serial(self) -> Any:
        """The certificate that a visitor sees."""
        with self.visit() as visitor:
            return visitor.getpeercert(binary_form=True)


@pytest.fixture
def house(twistd: Twistds, tmp_path: Path, serve: Callable[..., Service]) -> House:
    return House(twistd, tmp_path, serve(GET=page("hello"), get=get, count=count, echo=echo).address)


def test_a_certificate_is_all_automatic(house: House, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.port)
    pebble.start()
    client = house.client(*pebble.options)
    client.wait_for(OBTAINED)
    root = tmp_path / "root.pem"
    root.write_text(pebble.root())
    seen = house.curl(root)
    assert (seen.stdout, seen.stderr) == ("hello", "")
    assert house.curl(root, "--tlsv1.2", "--tls-max", "1.2").stdout == "hello"
    made = client.wait_for(r"a new account was made: (\S+); .*app.example.org. CAA 0 issue \"(.*)\"")
    assert f"accounturi={made[1]}; validationmethods=tls-alpn-01" in made[2]
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in house.state.rglob("*") if path.is_file()}
    assert files == {"account.json": 0o600, f"{NAME}.pem": 0o600}
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o022 == 0 for path in house.state.rglob("*"))
    # After a restart, nothing is ordered.
    assert client.terminate() == 0
    again = house.client(*pebble.options)
    again.wait_for("is published")
    assert house.curl(root).stdout == "hello"
    assert not re.search(OBTAINED, again.output)
    for process in (client, again, house.server):
        assert "Traceback" not in process.output


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_bulk_both_ways(plane: str, house: House, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.port)
    pebble.start()
    house.client(*pebble.options, f"--data-plane={plane}").wait_for(OBTAINED)
    root, amount = pebble.root(), 30_000_000
    with house.visit(root) as down:
        down.sendall(b"get %d 7\n" % amount)
        assert read_all(down) == expected(amount, 7)
    with house.visit(root) as up:
        up.sendall(b"count\n")
        send_bytes(up, amount, 8)
        # This ends our direction only; Python would wait for the other end's too.
        up.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            up.unwrap()
        up.settimeout(PATIENCE)
        total, digest = up.recv(1000).decode().split()
        assert (int(total), digest) == expected(amount, 8)


def test_renewed_under_traffic(house: House, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.port, valid=24)
    pebble.start()
    client = house.client(*pebble.options)
    end = client.wait_for(OBTAINED).end()
    first = house.serial()
    with house.visit(pebble.root()) as visitor:
        renewed = client.wait_for(OBTAINED, after=end)
        assert renewed
        assert house.serial() != first
        visitor.sendall(b"get 1000000 3\n")
        assert read_all(visitor) == expected(1_000_000, 3)
    assert "no new certificate" not in client.output


def test_the_ca_is_down_at_first(house: House, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.port)
    client = house.client(*pebble.options)
    client.wait_for(f"{NAME}: a certificate is being obtained from 127.0.0.1:")
    client.wait_for(
        f"{NAME}: no new certificate, visitors are turned away: 127.0.0.1:\\d+: it cannot be reached: .*refused.*; "
        "next attempt in \\d+ seconds"
    )
    with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        house.visit()
    # A process that is started again does not ask sooner.
    assert client.terminate() == 0
    pebble.start()
    house.client(*pebble.options).wait_for(OBTAINED)
    house.visit(pebble.root()).close()


def test_the_ca_forgets_the_account_and_the_former_certificate_stays(
    house: House, twistd: Twistds, tmp_path: Path
) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.port, valid=30)
    running: Process = pebble.start()
    client = house.client(*pebble.options)
    end = client.wait_for(OBTAINED).end()
    first = house.serial()
    running.kill()
    end = client.wait_for(r"no new certificate, the old one stays in use, .*cannot be reached", after=end).end()
    assert house.serial() == first
    pebble.start()
    client.wait_for("the CA does not know the former account; a new account was made", after=end)
    client.wait_for(OBTAINED, after=end)
    poll(lambda: house.serial() != first, PATIENCE, "another certificate")


@pytest.fixture
def files(tmp_path: Path) -> Holder:
    """A certificate that the operator has obtained, from a CA in the same folder."""
    return Authority(tmp_path / "pki", kind="ECDSA").server(hosts=[NAME], kind="ECDSA")


def with_files(house: House, holder: Holder, config: Path, *options: str) -> Twistd:
    config.write_text(
        f"server: {LOOPBACK}:{house.control}\n"
        f"tunnels:\n- publish: https:{NAME}={house.local}\n"
        f"  tls: {{certificate: {holder.cert}, private-key: {holder.key}}}\n"
    )
    client = house.twistd("rtunnel-client", "--config", str(config), *options)
    client.wait_for("is published")
    return client


def test_files_of_the_operator(house: House, files: Holder, tmp_path: Path) -> None:
    client = with_files(house, files, tmp_path / "client.yaml")
    assert house.curl(tmp_path / "pki" / "ca.crt").stdout == "hello"
    assert "not for" not in client.output
    first = house.serial()
    other = Authority(tmp_path / "other", kind="ECDSA").server(hosts=[NAME], kind="ECDSA")
    files.key.write_bytes(other.key.read_bytes())
    client.wait_for(f"{NAME}: the former certificate stays in use: .* is not the key of")
    assert house.serial() == first
    files.cert.write_bytes(other.cert.read_bytes())
    client.wait_for(f"{NAME}: new connections use another certificate")
    assert house.serial() != first
    assert house.curl(tmp_path / "other" / "ca.crt").stdout == "hello"


def test_visitors_move_from_the_link(house: House, files: Holder, tmp_path: Path) -> None:
    client = with_files(house, files, tmp_path / "client.yaml", "--pool=1")
    amount, crowd = 200_000, 12
    with ExitStack() as stack:
        with ThreadPoolExecutor(crowd) as pool:
            visitors = [stack.enter_context(each) for each in pool.map(lambda _: house.visit(), range(crowd))]
        for visitor in visitors:
            visitor.sendall(b"echo\n")
        for turn in range(20):
            for number, visitor in enumerate(visitors):
                visitor.sendall(b"%d/%d " % (turn, number))
            for number, visitor in enumerate(visitors):
                asked = b"%d/%d " % (turn, number)
                assert visitor.recv(len(asked)) == asked
            time.sleep(0.05)  # for which they have stayed
        house.server.wait_for("goes on on a connection of its own")
        for visitor in visitors:
            load = Background(lambda visitor=visitor: send_bytes(visitor, amount, 5))  # type: ignore[misc]
            assert read_bytes(visitor, amount) == expected(amount, 5)
            load.join()
    assert client.terminate() == 0
    assert "Traceback" not in client.output


def test_a_service_that_is_down(house: House, files: Holder, tmp_path: Path) -> None:
    house.local = f"{LOOPBACK}:{free_port()}"
    client = with_files(house, files, tmp_path / "client.yaml")
    with house.visit() as visitor, socket.socket(fileno=os.dup(visitor.fileno())) as below:
        below.settimeout(PATIENCE)
        with pytest.raises(ConnectionResetError):
            read_all(below)
    assert client.terminate() == 0
    assert "Traceback" not in client.output
