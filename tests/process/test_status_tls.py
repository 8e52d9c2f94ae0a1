"""The status port by HTTPS: who is let in, what curl and Prometheus need for it, and files that change."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from OpenSSL import SSL

from tests.documents import printed
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistds, need, poll, wait_until_open
from tests.process.services import LOOPBACK
from tests.process.test_metrics import Prometheus
from tests.tls.parts import DAY, Authority, Holder

#: Seconds within which a reader is answered, whatever strangers do.
SOON = 1.0


class Status:
    """A server with a status port by HTTPS, and who reads it.

    :param demands: whether readers need a certificate.
    """

    def __init__(
        self, twistd: Twistds, directory: Path, *options: str, kind: str = "ECDSA", demands: bool = True
    ) -> None:
        self.authority = Authority(directory / "ca", kind=kind)
        self.own = self.authority.server(kind=kind)
        self.reader = self.authority.client("prometheus", kind=kind)
        self.port = free_port()
        ca = [f"--status-tls-ca={self.authority.cert}"] if demands else []
        files = (f"--status-tls-cert={self.own.cert}", f"--status-tls-key={self.own.key}", *ca)
        self.server = start(twistd, self.port, *files, *options)

    def tls(self, holder: Holder | None = None) -> ssl.SSLContext:
        """What a reader speaks, perhaps with a certificate."""
        context = ssl.create_default_context(cafile=str(self.authority.cert))
        if holder is not None:
            context.load_cert_chain(holder.cert, holder.key)
        return context

    def connect(self, holder: Holder | None = None) -> ssl.SSLSocket:
        connection = socket.create_connection((LOOPBACK, self.port), PATIENCE)
        return self.tls(holder).wrap_socket(connection, server_hostname=LOOPBACK)

    def get(self, path: str, holder: Holder | None = None, **fields: str) -> str:
        """The body of the answer."""
        request = Request(f"https://{LOOPBACK}:{self.port}{path}", headers=fields)
        with urlopen(request, timeout=PATIENCE, context=self.tls(holder)) as answer:
            body: bytes = answer.read()
        return body.decode()

    def curl(self, *options: str, scheme: str = "https") -> subprocess.CompletedProcess[str]:
        url = f"{scheme}://{LOOPBACK}:{self.port}/healthz"
        patience = ("--max-time", str(PATIENCE))
        command = [need("curl"), "-sS", *patience, "--cacert", str(self.authority.cert), *options, url]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def start(twistd: Twistds, port: int, *options: str) -> Process:
    """A server with a status port."""
    listen = (f"--control-listen={LOOPBACK}:{free_port()}", f"--status-listen={LOOPBACK}:{port}")
    server = twistd("rtunnel-server", *listen, *options)
    wait_until_open(port)
    return server


def as_curl(holder: Holder) -> tuple[str, ...]:
    return ("--cert", str(holder.cert), "--key", str(holder.key))


@pytest.mark.parametrize("kind", ["ECDSA", "Ed25519", "RSA"])
def test_only_who_has_a_certificate_may_read(twistd: Twistds, tmp_path: Path, kind: str) -> None:
    status = Status(twistd, tmp_path, kind=kind)
    assert status.curl(*as_curl(status.reader)).stdout == "ok\n"
    status12 = status.curl("--tls-max", "1.2", *as_curl(status.reader))
    assert status12.stdout == "ok\n", status12.stderr
    stranger = Authority(tmp_path / "other", "another CA", kind=kind).client(kind=kind)
    namesake = Authority(tmp_path / "namesake", kind=kind).client(kind=kind)
    old = status.authority.client("old", kind=kind, begin=-3 * DAY, end=-2 * DAY)
    whys = {
        "it shows no certificate; give it one from a CA of --status-tls-ca": (),
        "its certificate is not from a CA of --status-tls-ca, not a client's, or has expired": as_curl(stranger),
    }
    for why, options in whys.items():
        refused = status.curl(*options)
        assert (refused.returncode, refused.stdout) != (0, "ok\n")
        assert refused.stdout == ""
        status.server.wait_for(rf"connection from {LOOPBACK}:\d+ to the status port closed: {re.escape(why)}")
    # Nor does one from a CA of the same name, an expired one, or that of a server.
    for holder in (namesake, old, status.own):
        assert status.curl(*as_curl(holder)).stdout == ""
    assert status.curl(scheme="http").stdout == ""
    status.server.wait_for("to the status port closed: it speaks no TLS; write https:// there")


def test_a_ca_below_another_may_be_the_one_that_counts(twistd: Twistds, tmp_path: Path) -> None:
    """Then those of its root and of its sisters are no readers."""
    root = Authority(tmp_path / "root", "root CA", kind="ECDSA")
    ours, sister = (
        Authority(tmp_path / name, f"{name} CA", kind="ECDSA", issuer=root) for name in ("readers", "others")
    )
    status = Status(twistd, tmp_path, f"--status-tls-ca={ours.cert}", demands=False)
    assert status.curl(*as_curl(ours.client(kind="ECDSA"))).stdout == "ok\n"
    for other in (root, sister):
        assert status.curl(*as_curl(other.client(kind="ECDSA"))).stdout == ""


def test_a_post_quantum_exchange_is_preferred(twistd: Twistds, tmp_path: Path) -> None:
    status = Status(twistd, tmp_path)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(status.reader.certificate)
    context.use_privatekey_file(str(status.reader.key))
    with closing(socket.create_connection((LOOPBACK, status.port))) as tcp:
        connection = SSL.Connection(context, tcp)
        connection.set_connect_state()
        connection.do_handshake()
        assert connection.get_group_name() == "X25519MLKEM768"
        connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.0 200 ")


def test_a_certificate_and_a_token(twistd: Twistds, tmp_path: Path) -> None:
    """Without the CA of clients, the token is enough; any name leads here."""
    status = Status(twistd, tmp_path, "--status-token=s3cret", demands=False)
    options = ("-H", "Host: status.example.org", "-H", "Authorization: Bearer s3cret")
    assert status.curl(*options).stdout == "ok\n"
    assert "--status-token" in status.curl().stdout


def test_prometheus(twistd: Twistds, tmp_path: Path) -> None:
    status = Status(twistd, tmp_path)
    files = {"ca_file": str(status.authority.cert), "cert_file": str(status.reader.cert)}
    tls = {"scheme": "https", "tls_config": {**files, "key_file": str(status.reader.key)}}
    prometheus = Prometheus(twistd, tmp_path, [status.port], **tls)
    prometheus.wait_for("sum(up)", 1)
    prometheus.wait_for("rtunnel_ok", 1)


def test_files_that_change(twistd: Twistds, tmp_path: Path) -> None:
    """A renewed certificate is used; files that are wrong are not; a CA that goes takes its readers along."""
    status = Status(twistd, tmp_path)
    shown = partial(_shown, status)
    with status.connect(status.reader) as reading:
        reading.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in reading.recv(100)
        before = shown()
        renewed = status.authority.server("renewed", kind="ECDSA")
        for old, new in ((status.own.key, renewed.key), (status.own.cert, renewed.cert)):
            new.replace(old)
        status.server.wait_for("the files of the status port have changed; new connections use them")
        assert shown() != before
        after = len(status.server.output)
        status.own.cert.write_text("not a certificate")
        status.server.wait_for("the files of the status port cannot be used, and those from before stay", after=after)
        assert shown() != before
        # Who reads meanwhile goes on.
        assert reading.recv(100)
        renewed.write()
        renewed.cert.replace(status.own.cert)
        renewed.key.replace(status.own.key)
        other = Authority(tmp_path / "other", kind="ECDSA")
        reader = other.client(kind="ECDSA")
        after = len(status.server.output)
        status.authority.cert.with_name("new").write_bytes(other.cert.read_bytes())
        status.authority.cert.with_name("new").replace(status.authority.cert)
        status.server.wait_for("the files of the status port have changed", after=after)
        with suppress(OSError):
            while reading.recv(65536):
                pass
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(reader.cert, reader.key)
    with socket.create_connection((LOOPBACK, status.port), PATIENCE) as tcp, context.wrap_socket(tcp) as tls:
        tls.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert tls.recv(100).startswith(b"HTTP/1.0 200 ")


def _shown(status: Status) -> bytes | None:
    with status.connect(status.reader) as tls:
        return tls.getpeercert(binary_form=True)


def test_certificates_that_vouch_for_themselves(twistd: Twistds) -> None:
    """As docs/control.rst prints it."""
    commands = {command.text.split()[0]: command.text for command in printed() if "prometheus.crt" in command.text}
    port = free_port()
    for command in printed():
        if command.document == "control.rst" and command.text.startswith("openssl req"):
            subprocess.run(command.text, shell=True, cwd=twistd.directory, check=True, capture_output=True)
    options = commands["rtunnel"].replace("\\\n", " ").replace(":7070", f":{port}").split()[2:]
    server = twistd("rtunnel-server", f"--control-listen={LOOPBACK}:{free_port()}", *options)
    wait_until_open(port)
    there = f"status.example.org:{port}"
    curl = commands["curl"].replace("status.example.org:7070", f"{there}")
    curl = f"{curl} --resolve {there}:{LOOPBACK} -sS"

    def run(command: str) -> str:
        return subprocess.run(
            command, shell=True, cwd=twistd.directory, capture_output=True, text=True, check=False
        ).stdout

    assert run(curl) == "ok\n"
    assert run(curl.replace("--cert prometheus.crt --key prometheus.key", "")) == ""
    server.wait_for("it shows no certificate")
    # Whoever is taken out of the list may no longer read.
    (twistd.directory / "prometheus.crt").write_bytes((twistd.directory / "status.crt").read_bytes())
    server.wait_for("the files of the status port have changed")
    assert run(curl) == ""


class Strangers:
    """Connections that say nothing.

    :param count: how many at once; each that is closed is opened anew.
    """

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._count = count
        self._over = threading.Event()
        self.opened = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Strangers:
        self._thread.start()
        poll(lambda: self.opened >= self._count, PATIENCE, "the strangers")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with ExitStack() as stack:
            connections = [stack.enter_context(socket.socket()) for _ in range(self._count)]
            for connection in connections:
                connection.connect((LOOPBACK, self._port))
                self.opened += 1
            while not self._over.wait(0.02):
                for number, connection in enumerate(connections):
                    connection.setblocking(False)
                    with suppress(BlockingIOError):
                        with suppress(ConnectionError):
                            connection.recv(1)
                        connection.close()
                        connections[number] = stack.enter_context(socket.socket())
                        with suppress(OSError):
                            connections[number].connect((LOOPBACK, self._port))
                            self.opened += 1
                        if self._over.wait(0.05):
                            return


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
def test_strangers_keep_no_reader_out(twistd: Twistds, tmp_path: Path, is_tls: bool) -> None:
    """64 that say nothing, from his own address, and come again whenever one of them is closed."""
    fields = {"Authorization": "Bearer s3cret"}
    port = free_port()
    context: ssl.SSLContext | None = None
    if is_tls:
        status = Status(twistd, tmp_path, "--status-token=s3cret")
        port = status.port
        context, url = status.tls(status.reader), f"https://{LOOPBACK}:{port}/v1/status"
    else:
        start(twistd, port, "--status-token=s3cret")
        url = f"http://{LOOPBACK}:{port}/v1/status"

    def ask() -> str:
        with urlopen(Request(url, headers=fields), timeout=PATIENCE, context=context) as answer:
            return str(answer.read(), "utf-8")

    ask()
    with Strangers(port, 64) as strangers:
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert json.loads(ask())["service"] == "rtunnel-server"
            took.append(time.monotonic() - began)
            time.sleep(0.05)
        print(f"{strangers.opened} strangers came; the slowest answer took {max(took):.3f} s")
    assert sorted(took)[len(took) // 2] < SOON
    assert max(took) < 10 * SOON
