"""``rtunnel doctor`` with real processes: what works, and each thing that can be wrong on the way to a server."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.process.doctor import Report, run
from tests.process.harness import Twistds, need, wait_until_open
from tests.process.nginx import Nginx
from tests.process.services import LOOPBACK, Service, Tunnel, fetch, page
from tests.process.test_via import start_tinyproxy, start_tinyproxy_with_password
from tests.process.tls_services import UnderTls
from tests.tls.parts import Authority

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]

TOKEN = "a-right-token"


pytestmark = pytest.mark.usefixtures("control_sockets")


def test_all_is_well_beside_a_client_that_runs(serve: Serve, start_tunnel: StartTunnel) -> None:
    service = serve(GET=page("here"))
    tunnel = start_tunnel(service.address)
    server = f"{LOOPBACK}:{tunnel.control}"
    code, out, err = run(f"--server={server}", f"--local={service.address}", f"--remote-port={tunnel.public}")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for name, text in (
        ("client", f"process {tunnel.client.pid} is connected to {server}"),
        ("proxy", "none"),
        ("name", f"{LOOPBACK} is an address"),
        ("route", f"to {LOOPBACK} from {LOOPBACK} (lo)"),
        ("port", f"{server} is open"),
        ("server", "an rtunnel server (rtunnel/"),
        ("clock", "the clocks agree within 0."),
        ("rights", "let in without a proof; round trip "),
        ("data", "a second connection can be made"),
        ("UDP", f"UDP gets through to {LOOPBACK} port {tunnel.control}, and back"),
        ("tunnel", f"port {tunnel.public}: published at {LOOPBACK}:{tunnel.public} by the client that runs here"),
        ("service", f"{service.address} of port {tunnel.public} answers"),
    ):
        assert any(line.startswith(f"ok   {name:<13}{text}") for line in lines), (name, out)
    assert lines[-1] == "All is well."
    assert "\x1b" not in out
    # The client has its link and its port, and the server has nothing of the doctor's left.
    tunnel.server.wait_for(r"client 127\.0\.0\.1:\d+ gone")
    assert fetch(tunnel.public) == "here"
    assert "lost" not in tunnel.client.output
    assert "published" in tunnel.server.output
    assert len(re.findall("published", tunnel.server.output)) == 1


def test_it_publishes_nothing(start_tunnel: StartTunnel, serve: Serve) -> None:
    tunnel = start_tunnel(serve(GET=page("here")).address)
    other = free_port()
    report = Report(f"--server={LOOPBACK}:{tunnel.control}", f"--tunnel={other}:{LOOPBACK}:{other}")
    assert report.status("tunnel") == "ok"
    assert report.text("tunnel") == f"port {other}: the server allows it"
    assert report.failed() == ["service"]
    assert f"{LOOPBACK}:{other} of port {other} does not answer: connection refused" in report.text("service")
    assert f"Start the service at {LOOPBACK}:{other}" in report.advice
    assert f":{other} ->" not in tunnel.server.output


def test_tunnels_that_the_server_refuses(twistd: Twistds) -> None:
    control, web, good, bad = free_port(), free_port(), free_port(), free_port()
    twistd(
        "rtunnel-server",
        f"--control-listen=tcp:{control}:interface={LOOPBACK}",
        f"--http-listen=tcp:{web}:interface={LOOPBACK}",
        f"--allow-ports={good}",
    )
    wait_until_open(control)
    server, service = f"--server={LOOPBACK}:{control}", f"{LOOPBACK}:{web}"
    holder = twistd("rtunnel-client", server, f"--publish=http:app.example.org={service}")
    holder.wait_for("is published")
    wanted = {
        f"tcp:{good}": ("ok", f"port {good}: the server allows it"),
        f"udp:{good}": ("ok", f"UDP port {good}: the server allows it"),
        f"tcp:{bad}": ("fail", f"port {bad}: the server would refuse it now: port-not-allowed: "),
        "https:app.example.net": ("fail", "https://app.example.net: the server would refuse it now: not-supported: "),
        "http:app.example.org/api": ("warn", "http://app.example.org/api: the server would refuse it now: host-in-use"),
    }
    report = Report(server, *(f"--publish={place}={service}" for place in wanted))
    for status, text in wanted.values():
        found = [step["status"] for step in report.steps["tunnel"] if step["text"].startswith(text)]
        assert found == [status], report.found
    assert "allow it at the server (--allow-ports, or its clients file)" in report.advice
    assert "If the client of this configuration does not run: Choose another name" in report.advice
    assert report.failed() == ["tunnel", "tunnel"]
    # Published by nobody, and the holder has what it had.
    assert "lost" not in holder.output
    assert "refused" not in holder.output


def test_nobody_listens() -> None:
    port = free_port()
    code, out, err = run(f"--server={LOOPBACK}:{port}")
    assert (code, err) == (1, "")
    assert f"FAIL port         {LOOPBACK}:{port} refuses connections: " in out
    assert "-    server       not tried: 'port' comes first" in out
    assert (
        f"What to do:\n  1. Start the server on that machine, and compare its --control-listen with {LOOPBACK}" in out
    )


def test_a_name_that_does_not_exist() -> None:
    report = Report("--server=nosuch.invalid:7000")
    assert report.failed() == ["name"]
    assert report.text("name").startswith("nosuch.invalid: ")
    assert "getent hosts nosuch.invalid" in report.advice


def test_a_port_that_drops() -> None:
    with ExitStack() as stack:
        # Its backlog is full, so the kernel drops what comes.
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect((LOOPBACK, port))
        report = Report(f"--server={LOOPBACK}:{port}")
    assert report.failed() == ["port"]
    assert "does not answer within 4 s: a firewall drops the packets" in report.text("port")
    assert f"Open TCP port {port} in every firewall on the way" in report.advice


def test_a_wrong_token(twistd: Twistds, tmp_path: Path) -> None:
    port = free_port()
    twistd("rtunnel-server", f"--control-listen=tcp:{port}:interface={LOOPBACK}", f"--valid-tokens={TOKEN}")
    wait_until_open(port)
    server = f"--server={LOOPBACK}:{port}"
    none, wrong, right = Report(server), Report(server, "--token=a-wrong-token"), Report(server, f"--token={TOKEN}")
    assert none.failed() == wrong.failed() == ["rights"]
    assert "the client has no token, and needs one" in none.text("rights")
    assert "Give the token with --token" in none.advice
    assert "the client's token is not valid" in wrong.text("rights")
    assert "none of the server's" in wrong.advice
    assert right.code == 0
    assert right.text("rights").startswith("let in with its token; round trip ")
    config = tmp_path / "client.yaml"
    config.write_text(f"server: {LOOPBACK}:{port}\ntoken: {TOKEN}\n")
    from_file = Report(f"--config={config}")
    assert (from_file.code, from_file.found["end"]) == (0, "client")
    assert TOKEN not in json.dumps(from_file.found)


def test_a_client_that_may_have_one_link(twistd: Twistds, tmp_path: Path, serve: Serve) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text(f"laptop: {{token: {TOKEN}, links: 1}}\n")
    clients.chmod(0o600)
    port, public = free_port(), free_port()
    twistd("rtunnel-server", f"--control-listen=tcp:{port}:interface={LOOPBACK}", f"--clients={clients}")
    wait_until_open(port)
    service = serve(GET=page("here"))
    options = (f"--server={LOOPBACK}:{port}", f"--token={TOKEN}", f"--tunnel={public}:{service.address}")
    client = twistd("rtunnel-client", *options)
    client.wait_for("is published")
    report = Report(*options)
    assert report.code == 0, report.found
    assert report.status("rights") == "warn"
    assert "one more link is too many: limit: this client may have 1 links" in report.text("rights")
    assert (report.status("data"), report.status("UDP")) == ("skipped", "skipped")
    assert report.status("tunnel") == "ok"
    assert fetch(public) == "here"
    assert "lost" not in client.output


def test_many_tunnels_have_few_lines(start_tunnel: StartTunnel, serve: Serve) -> None:
    tunnel = start_tunnel(serve(GET=page("here")).address)
    report = Report(f"--server={LOOPBACK}:{tunnel.control}", f"--publish=udp:20000-20199={LOOPBACK}:20000-20199")
    assert report.code == 0
    [tunnels], [services] = report.steps["tunnel"], report.steps["service"]
    assert tunnels["text"] == "200 of 200 are in order"
    assert services["text"] == "200 of 200 are not tried, or cannot be told"


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        authority = Authority(tmp_path / "pki")
        authority.server()
        authority.client("laptop", file="client")
        return authority

    @pytest.fixture
    def port(self, twistd: Twistds, authority: Authority) -> int:
        return self.start(twistd, authority)

    def start(self, twistd: Twistds, authority: Authority) -> int:
        port = free_port()
        under_tls = UnderTls(twistd, authority.directory)
        under_tls("rtunnel-server", f"--control-listen=tcp:{port}:interface={LOOPBACK}", "--tls")
        wait_until_open(port)
        return port

    def report(self, port: int, authority: Authority, *more: str) -> Report:
        return Report(f"--server={LOOPBACK}:{port}", "--tls", *more, env={"RTUNNEL_PKI_DIR": str(authority.directory)})

    def test_all_is_well(self, port: int, authority: Authority) -> None:
        report = self.report(port, authority)
        assert report.failed() == []
        assert report.text("certificate").startswith("this client is 'laptop', until ")
        assert report.text("TLS").startswith("TLS 1.3, X25519MLKEM768; the server is ")
        assert "from 'test CA', until" in report.text("TLS")
        assert report.text("rights").startswith("let in with its certificate")
        assert report.text("UDP").startswith("UDP gets through")

    def test_forgotten_at_either_end(self, port: int, authority: Authority, twistd: Twistds) -> None:
        report = Report(f"--server={LOOPBACK}:{port}")
        assert report.failed() == ["server"]
        assert report.text("server").startswith("the server speaks TLS; add --tls here")
        assert "Add --tls here." in report.advice
        plain = free_port()
        twistd("rtunnel-server", f"--control-listen=tcp:{plain}:interface={LOOPBACK}")
        wait_until_open(plain)
        report = self.report(plain, authority)
        assert report.failed() == ["TLS"]
        assert "the server speaks no TLS there" in report.text("TLS")

    def test_another_ca(self, port: int, tmp_path: Path) -> None:
        other = Authority(tmp_path / "other")
        other.client("laptop", file="client")
        report = self.report(port, other)
        assert report.failed() == ["TLS"]
        assert "is not from a CA of --tls-ca" in report.text("TLS")
        assert "rtunnel pki import NAME.pem" in report.advice

    def test_a_certificate_that_the_server_does_not_know(self, port: int, authority: Authority, tmp_path: Path) -> None:
        other = Authority(tmp_path / "other", "another CA")
        own = other.client("laptop", file="client")
        report = self.report(port, authority, f"--tls-cert={own.cert}", f"--tls-key={own.key}")
        assert report.failed() == ["server"]
        assert "the server refuses our certificate: it is not from a CA of its --tls-ca" in report.text("server")
        assert "certificates of one CA" in report.advice

    def test_expired(self, twistd: Twistds, authority: Authority) -> None:
        authority.issue("laptop", None, file="client", begin=timedelta(days=-9), end=timedelta(days=-1))
        port = self.start(twistd, authority)
        report = self.report(port, authority)
        assert report.failed() == ["certificate"]
        assert "the certificate of 'laptop' expired on " in report.text("certificate")
        assert "rtunnel pki renew" in report.advice
        assert report.status("TLS") == "skipped"

    def test_a_clock_that_is_behind(self, port: int, authority: Authority) -> None:
        authority.issue("laptop", None, file="client", begin=timedelta(days=2), end=timedelta(days=9))
        report = self.report(port, authority)
        assert report.failed() == ["certificate"]
        assert "this machine's clock says " in report.text("certificate")
        assert "Set the clock" in report.advice

    def test_an_expired_server(self, twistd: Twistds, authority: Authority) -> None:
        authority.issue(
            "server", None, file="server", hosts=[LOOPBACK], begin=timedelta(days=-9), end=timedelta(days=-1)
        )
        report = self.report(self.start(twistd, authority), authority)
        assert report.failed() == ["TLS"]
        assert "expired on " in report.text("TLS")
        assert "rtunnel pki renew server" in report.advice

    def test_no_files(self, port: int, tmp_path: Path) -> None:
        report = Report(f"--server={LOOPBACK}:{port}", "--tls", env={"RTUNNEL_PKI_DIR": str(tmp_path / "none")})
        assert report.failed() == ["certificate"]
        assert "client.crt cannot be read: No such file or directory" in report.text("certificate")
        assert "rtunnel pki import NAME.pem" in report.advice
        assert (report.status("port"), report.status("TLS")) == ("ok", "skipped")

    def test_another_name(self, port: int, authority: Authority) -> None:
        report = self.report(port, authority, "--tls-server-name=tunnel.example.org")
        assert report.failed() == ["TLS"]
        assert "not for tunnel.example.org" in report.text("TLS")
        assert "--tls-server-name" in report.advice


def test_through_a_proxy(twistd: Twistds, start_tunnel: StartTunnel, serve: Serve) -> None:
    tunnel = start_tunnel(serve(GET=page("here")).address)
    proxy, strict = free_port(), free_port()
    start_tinyproxy(twistd, proxy)
    start_tinyproxy_with_password(twistd, strict)
    server = f"--server={LOOPBACK}:{tunnel.control}"
    good = Report(server, f"--via=http://{LOOPBACK}:{proxy}")
    assert good.code == 0
    assert good.text("proxy") == f"through http://{LOOPBACK}:{proxy}"
    assert good.text("through") == f"the proxy leads to {LOOPBACK}:{tunnel.control}"
    assert good.text("UDP").startswith("UDP does not pass the proxy")
    bad = Report(server, f"--via=http://me:wrong@{LOOPBACK}:{strict}")
    assert bad.failed() == ["through"]
    assert "does not accept this user and password" in bad.text("through")
    assert "the right user and password" in bad.advice
    unused = Report(server, env={"HTTPS_PROXY": f"http://me:secret@{LOOPBACK}:{proxy}"})
    assert unused.text("proxy") == (
        f"none is used; the environment names http://{LOOPBACK}:{proxy} (--via env uses it)"
    )


def test_a_web_server(twistd: Twistds, tmp_path: Path) -> None:
    need("nginx")
    nginx = Nginx(twistd, tmp_path / "nginx")
    report = Report(f"--server={nginx.address}")
    assert report.failed() == ["server"]
    assert report.text("server").startswith("that is a web server")
    assert "not that of a web server" in report.advice


def test_mistakes(tmp_path: Path) -> None:
    code, out, err = run()
    assert (code, out) == (1, "")
    assert err.startswith("rtunnel doctor: name what to examine: --server HOST:PORT, --signal URL, or --config with ")
    code, out, err = run("--server=127.0.0.1")
    assert (code, out) == (1, "")
    assert err == "rtunnel doctor client: flag --server: '127.0.0.1' has no port; write 127.0.0.1:7000\n"
    assert "did you mean '--server'" in run("client", "--servr=a:1")[2]
    config = tmp_path / "missing.yaml"
    assert run(f"--config={config}")[2].startswith("rtunnel doctor: ")
    assert run(f"--config={config}")[2].count("\n") == 1
