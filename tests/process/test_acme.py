"""HTTPS that ends at the client, as an operator sets it up: real processes, a real ACME server, curl."""

from __future__ import annotations

import hashlib
import http.client
import random
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

from tests.chrome.test_browser import CHROMIUM
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistd, Twistds, need, poll
from tests.process.pebble import Pebble
from tests.process.services import Service, expected, read_bytes, read_line, send_bytes
from tests.process.verbs import say
from tests.tls.parts import Authority, Holder

NAME = "app.example.org"
LOOPBACK = "127.0.0.1"
LISTEN = f"tcp:0:interface={LOOPBACK}"
OBTAINED = rf"{NAME}: certificate from 127.0.0.1:\d+, valid until"


class Site:
    """A web server: ``/get/COUNT/SEED`` is so many bytes, a POST is told what has come, and the rest is hello."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __call__(self, connection: socket.socket, path: str, _version: str) -> None:
        method = self._method
        while True:
            fields = {}
            while line := read_line(connection).decode():
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
            total = int(fields.get("content-length", 0))
            if method == "POST":
                self._say(connection, "{} {}".format(*read_bytes(connection, total)))
            elif path.startswith("/get/"):
                amount, seed = map(int, path.split("/")[2:])
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % amount)
                send_bytes(connection, amount, seed)
            else:
                self._say(connection, "hello")
            words = read_line(connection).decode().split()
            if not words:
                return
            method, path, _ = words

    def _say(self, connection: socket.socket, text: str) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())


def get(visitor: ssl.SSLSocket, path: str) -> bytes:
    """Ask for something over a connection that stays."""
    return _ask(visitor, "GET", path)


def _ask(visitor: ssl.SSLSocket, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = http.client.HTTPConnection(NAME)
    connection.sock = visitor
    connection.request(method, path, body)
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return content


def digest(content: bytes) -> tuple[int, str]:
    return len(content), hashlib.sha256(content).hexdigest()


class House:
    """A server, and what a client of it needs."""

    def __init__(self, twistd: Twistds, directory: Path, local: str, *options: str) -> None:
        self.twistd = twistd
        self.local = local
        self.state = directory / "state"
        listen = f"--control-listen={LISTEN}", f"--https-listen={LISTEN}"
        self.server = twistd("rtunnel-server", "--log-level=debug", *listen, *options)
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
    return House(twistd, tmp_path, serve(GET=Site("GET"), POST=Site("POST")).address)


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


def test_a_group(house: House, twistd: Twistds, tmp_path: Path) -> None:
    """Each member has a certificate of its own, whichever of them the CA would meet like a visitor."""
    pebble = Pebble(twistd, tmp_path / "pebble", house.port)
    pebble.start()
    config = tmp_path / "client.yaml"
    config.write_text(
        f"server: {LOOPBACK}:{house.control}\n"
        "tunnels:\n"
        f"- {{publish: 'https:{NAME}={house.local}', group: web, group-key: 0123456789abcdef}}\n"
    )
    for number in range(4):
        state = f"--state-dir={tmp_path / str(number)}"
        member = twistd("rtunnel-client", "--config", str(config), *pebble.options, state)
        member.wait_for(f"{OBTAINED}|no new certificate")
        assert "no new certificate" not in member.output
    house.visit(pebble.root()).close()
    assert "Traceback" not in house.server.output


def test_a_name_that_is_published_while_the_client_runs(house: House, twistd: Twistds, tmp_path: Path) -> None:
    """The client began without any name, so that it had no use for a certificate."""
    pebble = Pebble(twistd, tmp_path / "pebble", house.port)
    pebble.start()
    client = twistd(
        *("rtunnel-client", f"--server={LOOPBACK}:{house.control}", f"--state-dir={house.state}", *pebble.options),
        f"--tunnel={free_port()}:9",
    )
    client.wait_for("is published")
    root = tmp_path / "root.pem"
    root.write_text(pebble.root())
    for round in range(2):
        code, said = say(twistd, "publish", f"--process={client.pid}", f"https:{NAME}={house.local}")
        assert code == 0, said
        client.wait_for(OBTAINED)
        poll(lambda: house.curl(root).stdout == "hello", PATIENCE, f"the page, round {round}")
        with house.visit(pebble.root()) as visitor:
            assert get(visitor, "/") == b"hello"
            assert say(twistd, "unpublish", f"--process={client.pid}", f"https:{NAME}")[0] == 0
            # A connection that is kept for the next request is closed.
            assert visitor.recv(1) == b""
        poll(lambda: house.curl(root).returncode != 0, PATIENCE, "nobody serves it")
    assert len(re.findall(OBTAINED, client.output)) == 1, "the second time it is still there"
    assert client.terminate() == 0
    assert "Traceback" not in client.output


def test_chromium_trusts_it(house: House, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.port)
    pebble.start()
    house.client(*pebble.options).wait_for(OBTAINED)
    root = tmp_path / "root.pem"
    root.write_text(pebble.root())
    database = tmp_path / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for arguments in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "pebble", "-i", str(root)]):
        assert twistd.program(need("certutil"), "-d", f"sql:{database}", *arguments).wait() == 0
    chromium = twistd.program(
        need("chromium"),
        *CHROMIUM,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--host-resolver-rules=MAP {NAME} {LOOPBACK}",
        "--dump-dom",
        f"https://{NAME}:{house.port}/",
        env={"HOME": str(tmp_path)},
    )
    chromium.wait_for("hello")


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_bulk_both_ways(plane: str, house: House, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.port)
    pebble.start()
    house.client(*pebble.options, f"--data-plane={plane}").wait_for(OBTAINED)
    amount = 30_000_000
    with house.visit(pebble.root()) as visitor:
        assert digest(get(visitor, f"/get/{amount}/7")) == expected(amount, 7)
        content = random.Random(8).randbytes(amount)
        total, found = _ask(visitor, "POST", "/", content).decode().split()
        assert (int(total), found) == digest(content)


def test_renewed_under_traffic(house: House, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.port, valid=24)
    pebble.start()
    client = house.client(*pebble.options)
    end = client.wait_for(OBTAINED).end()
    first = house.serial()
    with house.visit(pebble.root()) as visitor:

        def ask_and_look() -> bool:
            assert digest(get(visitor, "/get/100000/3")) == expected(100_000, 3)
            return re.compile(OBTAINED).search(client.output, end) is not None

        poll(ask_and_look, PATIENCE, "another certificate")
        assert house.serial() != first
        assert digest(get(visitor, "/get/1000000/3")) == expected(1_000_000, 3)
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
    crowd = 12
    with ExitStack() as stack:
        with ThreadPoolExecutor(crowd) as pool:
            visitors = [stack.enter_context(each) for each in pool.map(lambda _: house.visit(), range(crowd))]
        for turn in range(20):
            for number, visitor in enumerate(visitors):
                assert digest(get(visitor, f"/get/{turn * 10}/{number}")) == expected(turn * 10, number)
            time.sleep(0.05)  # for which they have stayed
        house.server.wait_for("goes on on a connection of its own")
        for number, visitor in enumerate(visitors):
            assert digest(get(visitor, f"/get/300000/{number}")) == expected(300_000, number)
    assert client.terminate() == 0
    assert "Traceback" not in client.output


def test_a_service_that_is_down(house: House, files: Holder, tmp_path: Path) -> None:
    house.local = f"{LOOPBACK}:{free_port()}"
    client = with_files(house, files, tmp_path / "client.yaml")
    assert "502" in house.curl(tmp_path / "pki" / "ca.crt").stdout
    assert client.terminate() == 0
    assert "Traceback" not in client.output
