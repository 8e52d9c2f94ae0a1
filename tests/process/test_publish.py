"""``rtunnel publish`` and ``rtunnel unpublish`` with real processes."""

from __future__ import annotations

import json
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistd, Twistds, poll, wait_until_closed
from tests.process.rtc import Asker, UdpService
from tests.process.services import (
    BOTH_PLANES,
    LOOPBACK,
    Service,
    Tunnel,
    Visitor,
    curl,
    expected,
    fetch,
    get,
    page,
    read_all,
)
from tests.process.verbs import look, say

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the control sockets of this test are; what is kept is in ``state`` there."""
    path = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(path))
    monkeypatch.setenv("STATE_DIRECTORY", str(path / "state"))
    return path


def tunnels_of(twistd: Twistds) -> dict[str, Any]:
    return {each["name"]: each for each in look(twistd, "rtunnel-client")["tunnels"]}


@BOTH_PLANES
def test_other_visitors_notice_nothing(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel) -> None:
    """A long download, and page after page, while another tunnel comes and goes."""
    service, other = serve(GET=page("here"), get=get), serve(GET=page("there"))
    tunnel = start_tunnel(service.address)
    is_over = threading.Event()
    problems: list[BaseException] = []
    pages = 0

    def browse() -> None:
        nonlocal pages
        try:
            while not is_over.is_set():
                assert fetch(tunnel.public) == "here"
                pages += 1
        except BaseException as error:
            problems.append(error)

    browser = threading.Thread(target=browse)
    browser.start()
    port = free_port()
    visitor = tunnel.visit(b"get %d 7" % (64 * MIB))
    visitor.settimeout(10 * PATIENCE)
    try:
        for _ in range(20):
            before = pages
            code, said = say(twistd, "publish", f"tcp:{port}={other.address}")
            assert (code, said) == (0, f"tcp:{port} is published: {LOOPBACK}:{port} leads to {other.address}\n")
            assert fetch(port) == "there"
            assert say(twistd, "unpublish", f"tcp:{port}") == (0, f"tcp:{port} is published no longer\n")
            wait_until_closed(port)
            poll(lambda before=before: pages > before, PATIENCE, f"pages go on: {problems}")  # type: ignore[misc]
    finally:
        is_over.set()
        browser.join(PATIENCE)
    assert not problems
    with visitor:
        assert read_all(visitor) == expected(64 * MIB, 7)
    assert "lost" not in tunnel.client.output
    assert tunnel.client.terminate() == 0
    assert "Traceback" not in tunnel.client.output + tunnel.server.output


@BOTH_PLANES
def test_present_visitors_finish(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel) -> None:
    service = serve(GET=page("here"), get=get)
    tunnel = start_tunnel(service.address)
    with tunnel.visit(b"get %d 3" % (32 * MIB)) as visitor:
        assert visitor.recv(1, 2)  # MSG_PEEK
        code, said = say(twistd, "unpublish", f"port {tunnel.public}")
        assert code == 0
        assert said.startswith(f"tcp:{tunnel.public} is published no longer; the settings have it, so it is back when ")
        wait_until_closed(tunnel.public)
        assert read_all(visitor) == expected(32 * MIB, 3)
    assert tunnels_of(twistd) == {}
    code, said = say(twistd, "unpublish", f"tcp:{tunnel.public}")
    assert (code, said) == (1, f"rtunnel unpublish: 'tcp:{tunnel.public}' is not published; nothing is\n")
    assert say(twistd, "publish", f"tcp:{tunnel.public}={service.address}")[0] == 0
    assert fetch(tunnel.public) == "here"
    assert tunnels_of(twistd)[f"port {tunnel.public}"]["added"] == "until restart"


def test_kept_across_a_restart(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel, directory: Path) -> None:
    service = serve(GET=page("here"))
    tunnel = start_tunnel(service.address)
    kept, brief = free_port(), free_port()
    assert say(twistd, "publish", "--keep", f"tcp:{kept}={service.address}")[0] == 0
    assert say(twistd, "publish", f"tcp:{brief}={service.address}")[0] == 0
    added = {name: each["added"] for name, each in tunnels_of(twistd).items()}
    assert added == {
        f"port {tunnel.public}": None,
        f"port {kept}": "kept",
        f"port {brief}": "until restart",
    }
    assert "published (added, kept)" in say(twistd, "status", "rtunnel-client")[1]
    [file] = (directory / "state").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["tunnels"] == [f"tcp:{kept}={service.address}"]
    assert tunnel.client.terminate() == 0
    tunnel.start_client()
    tunnel.client.wait_for(rf"{re.escape(LOOPBACK)}:{kept} is published; ")
    assert fetch(kept) == "here"
    assert f"port {brief}" not in tunnels_of(twistd)
    assert say(twistd, "unpublish", str(kept)) == (0, f"tcp:{kept} is published no longer\n")
    assert not list((directory / "state").iterdir())
    assert tunnel.client.terminate() == 0
    tunnel.start_client()
    tunnel.wait_for_client()
    assert f"port {kept}" not in tunnels_of(twistd)


def test_what_is_kept_cannot_be_used(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel, directory: Path) -> None:
    service = serve(GET=page("here"))
    tunnel = start_tunnel(service.address)
    kept = free_port()
    assert say(twistd, "publish", "--keep", f"tcp:{kept}=files:{directory}")[0] == 0
    [file] = (directory / "state").iterdir()
    content = json.loads(file.read_text())
    content["tunnels"] += [f"tcp:{free_port()}=files:/nonexistent", f"tcp:{tunnel.public}=9", 7]
    for broken, said in (
        (json.dumps(content), r"what 'rtunnel publish --keep' has kept is not published: files:/nonexistent cannot "),
        ("{", "is not what 'rtunnel publish --keep' writes; remove it"),
        ('{"version": 2}', "is not what this version of 'rtunnel publish --keep' writes; remove it"),
    ):
        assert tunnel.client.terminate() == 0
        file.write_text(broken)
        tunnel.start_client()
        tunnel.wait_for_client()
        tunnel.client.wait_for(said)
        assert (f"port {kept}" in tunnels_of(twistd)) == (broken[-2:] == "]}")
    assert tunnel.client.terminate() == 0
    file.chmod(0o666)
    tunnel.start_client()
    tunnel.wait_for_client()
    tunnel.client.wait_for("every user of this machine may change ")


def test_a_client_that_has_only_what_is_kept(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel) -> None:
    service = serve(GET=page("here"))
    tunnel = start_tunnel(service.address)
    kept = free_port()
    assert say(twistd, "publish", "--keep", f"tcp:{kept}={service.address}")[0] == 0
    assert tunnel.client.terminate() == 0
    client = twistd("rtunnel-client", f"--server={LOOPBACK}:{tunnel.control}")
    client.wait_for(f"{kept} is published")
    assert fetch(kept) == "here"


def test_refused_by_the_server(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel, directory: Path) -> None:
    service = serve(GET=page("here"))
    good, bad = free_port(), free_port()
    tunnel = start_tunnel(service.address, server=[f"--allow-ports=1-{bad - 1},{bad + 1}-65535"])
    code, said = say(twistd, "publish", "--keep", f"tcp:{good}={service.address}", f"tcp:{bad}={service.address}")
    assert code == 1
    assert said.startswith(
        f"tcp:{good} is published: {LOOPBACK}:{good} leads to {service.address}\n"
        f"rtunnel publish: tcp:{bad} is refused by the server: port-not-allowed: "
    )
    assert set(tunnels_of(twistd)) == {f"port {tunnel.public}", f"port {good}"}
    [file] = (directory / "state").iterdir()
    assert json.loads(file.read_text())["tunnels"] == [f"tcp:{good}={service.address}"]


def test_no_link(twistd: Twistds, serve: Serve) -> None:
    service = serve(GET=page("here"))
    control, port = free_port(), free_port()
    client = twistd(
        *("rtunnel-client", f"--server={LOOPBACK}:{control}", f"--tunnel={free_port()}:{service.address}"),
        "--reconnect-max=1",
    )
    client.wait_for("cannot reach")
    assert say(twistd, "publish", f"tcp:{port}={service.address}") == (
        0,
        f"tcp:{port}: there is no link to the server; it is published as soon as there is one\n",
    )
    twistd("rtunnel-server", f"--control-listen={LOOPBACK}:{control}", f"--public-interface={LOOPBACK}")
    client.wait_for(f"{port} is published")
    assert fetch(port) == "here"


def test_wrong_commands(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel) -> None:
    service = serve(GET=page("here"))
    tunnel = start_tunnel(service.address)
    public = tunnel.public
    for arguments, error in (
        (("publish",), "name a tunnel; write for example rtunnel publish tcp:8080=3000"),
        (("unpublish",), "name a tunnel, as 'rtunnel status' shows it, or such as tcp:8080"),
        (("publish", "8080:80"), "'8080:80' has no kind; write tcp:8080=80"),
        (("publish", "tcp:8080"), "'tcp:8080' "),
        (("publish", "htp:a.example.org=80"), "'htp' in 'htp:a.example.org=80' is not a kind of "),
        (("publish", "tcp:8080=files:/nonexistent"), "files:/nonexistent cannot be read: "),
        (("publish", "{"), "this is not JSON: {"),
        (("publish", '{"publish": "tcp:1=2", "publish": "tcp:3=4"}'), "key 'publish' occurs twice; keep one"),
        (("publish", f"tcp:1={'x' * 70_000}"), "this is too long: the body has 70,0"),
        (("publish", "--process=", "tcp:1=2"), "the name of the process is empty; write a name or a process id, or "),
        (("unpublish", "--process=", "tcp:1"), "the name of the process is empty; write a name or a process id, or "),
        (("publish", '{"publish": "tcp:8080=80", "alow": []}'), "entry 1: unknown key 'alow'; did you mean 'allow'?"),
        (("publish", '{"publish": "https:a.example.org=80", "tls": "auto"}'), "https:a.example.org with 'tls: auto' "),
        (("publish", f"tcp:{public}=9"), f"tcp:{public} is published already, for {service.address}; unpublish it "),
        (("publish", f"tcp:{public}={service.address}"), f"tcp:{public} is published already, for "),
        (("publish", "tcp:1-2000=127.0.0.1:1-2000"), "'1-2000' in 'tcp:1-2000=127.0.0.1:1-2000' is 2,000 "),
        (("unpublish", "tcp:1"), f"'tcp:1' is not published; published: tcp:{public}\n"),
        (("unpublish", f"tcp:{public}", "udp:53"), f"'udp:53' is not published; published: tcp:{public}\n"),
        (("publish", "--process=rtunnel-server", "tcp:1=2"), "this is not for rtunnel-server, but for rtunnel-client"),
    ):
        code, said = say(twistd, *arguments)
        assert code == 1, arguments
        assert said.startswith(f"rtunnel {arguments[0]}: {error}"), said
        assert said.count("\n") == 1
    assert fetch(public) == "here"
    assert set(tunnels_of(twistd)) == {f"port {public}"}


def test_two_clients(twistd: Twistds, serve: Serve, start_tunnel: StartTunnel) -> None:
    service = serve(GET=page("here"))
    tunnel = start_tunnel(service.address)
    other = twistd("rtunnel-client", f"--server={LOOPBACK}:{tunnel.control}", f"--tunnel={free_port()}:9")
    other.wait_for("is published")
    port = free_port()
    code, said = say(twistd, "publish", f"tcp:{port}={service.address}")
    assert code == 1
    pids = [tunnel.client.pid, other.pid]
    assert re.fullmatch(
        r"rtunnel publish: 2 processes are running: rtunnel-client (\d+), rtunnel-client (\d+); add the number of the "
        r"one that is meant\n",
        said,
    ), said
    assert say(twistd, "publish", f"--process={other.pid}", f"tcp:{port}={service.address}")[0] == 0
    other.wait_for(f"{port} is published")
    assert str(port) not in tunnel.client.output
    assert len(set(pids)) == 2


@pytest.fixture
def start_named(twistd: Twistds, tmp_path: Path) -> Callable[[], tuple[int, int, Twistd, Twistd]]:
    """A server with ports for host names, and a client with one TCP tunnel."""

    def start() -> tuple[int, int, Twistd, Twistd]:
        control, http, https = free_port(), free_port(), free_port()
        server = twistd(
            *("rtunnel-server", f"--control-listen={LOOPBACK}:{control}", f"--public-interface={LOOPBACK}"),
            *(f"--http-listen={LOOPBACK}:{http}", f"--https-listen={LOOPBACK}:{https}"),
        )
        server.wait_for("control port listening")
        client = twistd("rtunnel-client", f"--server={LOOPBACK}:{control}", f"--tunnel={free_port()}:9")
        client.wait_for("is published")
        return http, https, server, client

    return start


def test_names_and_udp(
    twistd: Twistds,
    serve: Serve,
    start_named: Callable[[], tuple[int, int, Twistd, Twistd]],
    udp_service: UdpService,
    tmp_path: Path,
) -> None:
    http, https, server, client = start_named()
    service, udp = serve(GET=page("here")), free_port()
    files = self_signed(twistd, tmp_path, "own.example.org")
    entry = {"publish": f"https:own.example.org={service.address}", "tls": files}
    for _ in range(2):
        code, said = say(
            twistd,
            *("publish", f"http:app.example.org={service.address}", f"udp:{udp}={udp_service.address}"),
            json.dumps(entry),
        )
        assert code == 0, said
        assert said.splitlines() == [
            f"http:app.example.org is published: http://app.example.org:{http} leads to {service.address}",
            f"udp:{udp} is published: {LOOPBACK}:{udp} leads to {udp_service.address}",
            f"https:own.example.org is published: https://own.example.org:{https} leads to {service.address}",
        ]
        assert curl(f"http://{LOOPBACK}:{http}", "-H", "Host: app.example.org") == b"here"
        url, at = f"https://own.example.org:{https}/", f"own.example.org:{https}:{LOOPBACK}"
        assert curl(url, "--resolve", at, "--cacert", files["certificate"]) == b"here"
        with Asker(udp) as asker:
            asker.ask(b"question")
        names = ["http:app.example.org", f"udp:{udp}", "https:own.example.org"]
        assert say(twistd, "unpublish", *names)[0] == 0
        poll(lambda: len(look(twistd, "rtunnel-server")["clients"][0]["tunnels"]) == 1, PATIENCE, "they are free")
    for process in (client, server):
        assert "lost" not in process.output
        assert process.terminate() == 0
        assert "Traceback" not in process.output


def self_signed(twistd: Twistds, directory: Path, name: str) -> dict[str, str]:
    """A certificate, and its key."""
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    made = twistd.program(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9"),
        *(
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName=DNS:{name}",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ),
    )
    assert made.wait() == 0
    return {"certificate": str(certificate), "private-key": str(key)}


def test_a_file_and_a_socket_are_named_from_where_one_is(
    twistd: Twistds, serve: Serve, start_tunnel: StartTunnel, tmp_path: Path
) -> None:
    start_tunnel(serve(GET=page("here")).address)
    (twistd.directory / "share").mkdir()
    (twistd.directory / "share" / "a.txt").write_text("content")
    port = free_port()
    code, said = say(twistd, "publish", f"tcp:{port}=files:share")
    assert (code, said) == (
        0,
        f"tcp:{port} is published: {LOOPBACK}:{port} leads to files:{twistd.directory / 'share'}\n",
    )
    assert curl(f"http://{LOOPBACK}:{port}/a.txt") == b"content"
    with Visitor(port) as idle:
        assert say(twistd, "unpublish", f"tcp:{port}")[0] == 0
        idle.sendall(b"GET /a.txt HTTP/1.0\r\n\r\n")
        assert idle.recv(100).startswith(b"HTTP/1.")
